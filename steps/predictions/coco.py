"""MS COCO: "COCO 1.0" as CVAT imports it, and the results format (cocodataset.org, "Results Format").

CVAT reads its file with datumaro, which takes `score` for an attribute of the box; CVAT keeps attributes that the label
has, and leaves out others. It pairs images by their path without suffix, whose beginning may be missing
(cvat/apps/dataset_manager/bindings.py: match_dm_item and find_dataset_root).
"""

from pathlib import Path
from typing import Any

import orjson

from steps.predictions.archive import only_file
from steps.predictions.predicted import Predictions


def write_instances(predictions: Predictions, target: Path) -> None:
    """Write a zip that CVAT imports as "COCO 1.0"."""
    content = {**_image_info(predictions), "annotations": _annotations(predictions)}
    with only_file(target, "annotations/instances_default.json") as file:
        file.write(orjson.dumps(content))


def write_results(predictions: Predictions, target: Path) -> None:
    """Write COCO results, whose image ids are those of `write_image_info`."""
    keys = ("image_id", "category_id", "bbox", "score")
    rows = [{key: row[key] for key in keys} for row in _annotations(predictions)]
    target.write_bytes(orjson.dumps(rows, option=orjson.OPT_APPEND_NEWLINE))


def write_image_info(predictions: Predictions, target: Path) -> None:
    """Write images and classes without annotations, as COCO does for its test images."""
    target.write_bytes(orjson.dumps(_image_info(predictions), option=orjson.OPT_APPEND_NEWLINE))


def _image_info(predictions: Predictions) -> dict[str, Any]:
    return {
        "licenses": [{"id": 0, "name": "", "url": ""}],
        "info": {"description": "Predictions of a model trained with cvat-detr"},
        "categories": [
            {"id": number, "name": name, "supercategory": ""}
            for number, name in zip(predictions.category_ids, predictions.class_names, strict=True)
        ],
        "images": [
            {"id": number, "width": image.width, "height": image.height, "file_name": image.name, "license": 0}
            for number, image in enumerate(predictions.images, start=1)
        ],
    }


def _annotations(predictions: Predictions) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for image_id, image in enumerate(predictions.images, start=1):
        for label, score, (x0, y0, x1, y1) in image.boxes:
            width, height = round(x1 - x0, 2), round(y1 - y0, 2)
            rows.append(
                {
                    "id": len(rows) + 1,
                    "image_id": image_id,
                    "category_id": predictions.category_ids[label],
                    "bbox": [x0, y0, width, height],
                    "area": round(width * height, 2),
                    "segmentation": [],
                    "iscrowd": 0,
                    "score": round(score, 6),
                    # CVAT marks such boxes as a model's, which `annotate --replace` may take away again.
                    "attributes": {"occluded": False, "source": "auto"},
                }
            )
    return rows
