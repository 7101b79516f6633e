"""The training and validation sets as COCO files."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import orjson

from steps.dataset.layout import MADE_BY
from steps.dataset.model import Category
from steps.preparation.clean import Clean

ROWS_AT_ONCE = 20_000
"""Boxes that are written at once, so that a million of them need little memory."""


def coco_file(
    data: Clean, root: Path, images: Sequence[int], numbers: np.ndarray, digests: Mapping[str, str]
) -> Iterator[bytes]:
    """Give a set as the bytes of a COCO file; image and annotation ids count from 1 over the whole dump.

    `digests` go into its `info`: by them, and by the SHA-256 of each image, the trainer knows what it reads again.
    """
    listed = [
        {
            "id": image + 1,
            "file_name": f"{root}/{data.files[image]}",
            "width": width,
            "height": height,
            "sha256": data.digests[image],
        }
        for image in images
        for width, height in (data.sizes[image],)
    ]
    head = {
        "info": {"made_by": MADE_BY, "description": "made from a CVAT dump", **digests},
        "categories": [
            {"id": each.id, "name": each.name, "supercategory": each.supercategory} for each in by_id(data.categories)
        ],
        "images": listed,
    }
    yield orjson.dumps(head)[:-1] + b',"annotations":['
    chosen = np.zeros(len(data.files), bool)
    chosen[images] = True
    rows = np.flatnonzero(chosen[data.boxes.image])
    ids = np.array([category.id for category in data.categories], np.int64)
    for start in range(0, len(rows), ROWS_AT_ONCE):
        part = rows[start : start + ROWS_AT_ONCE]
        boxes = data.boxes[part]
        annotations = [
            {
                "id": number,
                "image_id": image,
                "category_id": category,
                "bbox": box,
                "area": area,
                "iscrowd": crowd,
                "segmentation": [],
            }
            for number, image, category, box, area, crowd in zip(
                numbers[part].tolist(),
                (boxes.image + 1).tolist(),
                ids[boxes.category].tolist(),
                boxes.xywh.tolist(),
                (boxes.xywh[:, 2] * boxes.xywh[:, 3]).tolist(),
                boxes.crowd.astype(int).tolist(),
                strict=True,
            )
        ]
        yield (b"," if start else b"") + orjson.dumps(annotations)[1:-1]
    yield b"]}\n"


def by_id(categories: Sequence[Category]) -> list[Category]:
    """Sort classes by their ids."""
    return sorted(categories, key=lambda category: category.id)
