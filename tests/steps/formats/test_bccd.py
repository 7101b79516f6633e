"""The same forty images, as CVAT wrote them in seven formats."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from steps.formats import datumaro_json, labelme, mot, tfrecord, voc, yolo
from tests.steps.formats.dumps import said

ARCHIVES = Path(__file__).resolve().parents[4] / "shared" / "data" / "bccd40"
Boxes = list[tuple[str, float, float, float, float]]


@pytest.fixture
def unpacked(tmp_path: Path) -> Callable[[str], Path]:
    def unpack(tag: str) -> Path:
        archive = ARCHIVES / f"{tag}.zip"
        if not archive.is_file():
            pytest.skip(f"the real dump is not here: ../shared/data/bccd40/{archive.name}")
        with zipfile.ZipFile(archive) as content:
            content.extractall(tmp_path / tag)
        return tmp_path / tag

    return unpack


def listed_in_coco(root: Path) -> dict[str, Boxes]:
    document: dict[str, list[Any]] = json.loads((root / "annotations/instances_default.json").read_text())
    names = {image["id"]: Path(image["file_name"]).stem for image in document["images"]}
    labels = {category["id"]: category["name"] for category in document["categories"]}
    images: dict[str, Boxes] = {name: [] for name in names.values()}
    for annotation in document["annotations"]:
        images[names[annotation["image_id"]]].append((labels[annotation["category_id"]], *annotation["bbox"]))
    return images


def in_order(boxes: Boxes) -> Boxes:
    return sorted(boxes, key=lambda box: (box[0], *(round(value) for value in box[1:])))


@pytest.mark.parametrize("reader", [datumaro_json, labelme, mot, tfrecord, voc, yolo], ids=lambda reader: reader.TAG)
def test_boxes_are_those_of_coco(unpacked: Callable[[str], Path], reader: ModuleType) -> None:
    expected = listed_in_coco(unpacked("cvat_coco"))
    found = said(reader, unpacked(reader.TAG)).images
    if reader is mot:
        # It has frame numbers instead of names, in the same order.
        found = dict(zip(sorted(expected), (found[name] for name in sorted(found)), strict=True))
    assert found.keys() == expected.keys()
    assert sum(len(boxes) for boxes in found.values()) == 784
    for name, boxes in expected.items():
        assert in_order(found[name]) == [
            (label, *(pytest.approx(value, abs=0.5) for value in box)) for label, *box in in_order(boxes)
        ]
