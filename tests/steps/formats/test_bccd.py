"""The same forty images, as CVAT wrote them in seven formats."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from steps.prepare import prepare_data

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


def boxes_by_name(annotations: Path) -> dict[str, Boxes]:
    """Boxes of a COCO file, by the image's base name without suffix, in an order that rounding does not change."""
    document: dict[str, list[Any]] = json.loads(annotations.read_text())
    names = {image["id"]: Path(image["file_name"]).stem for image in document["images"]}
    labels = {category["id"]: category["name"] for category in document["categories"]}
    images: dict[str, Boxes] = {name: [] for name in names.values()}
    for annotation in document["annotations"]:
        images[names[annotation["image_id"]]].append((labels[annotation["category_id"]], *annotation["bbox"]))
    return {name: sorted(boxes, key=lambda box: (box[0], *map(round, box[1:]))) for name, boxes in images.items()}


@pytest.mark.parametrize(
    "tag",
    ["cvat_coco", "cvat_label_me", "cvat_mot", "cvat_tfrecord", "cvat_voc", "cvat_yolo", "datumaro_project"],
)
def test_boxes_are_those_that_cvat_wrote_as_coco(unpacked: Callable[[str], Path], tag: str) -> None:
    # The archive itself, read without anything of ours.
    expected = boxes_by_name(unpacked("cvat_coco") / "annotations/instances_default.json")
    root = unpacked(tag)
    report = prepare_data(root, val_split=0, dump_format="")
    assert report["dump_format"] == tag
    assert report["boxes"]["train"] == sum(map(len, expected.values()))
    found = boxes_by_name(root / "annotations/instances_train.json")
    if tag == "cvat_mot":
        # It has frame numbers instead of names, in the same order.
        found = dict(zip(sorted(expected), (found[name] for name in sorted(found)), strict=True))
    assert found.keys() == expected.keys()
    for name, boxes in expected.items():
        assert found[name] == [(label, *(pytest.approx(value, abs=0.5) for value in box)) for label, *box in boxes]
    assert not report["lost"]
