from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipelines.local.sample import CLASSES, SIDE, draw_sample


def read(folder: Path) -> dict:
    return json.loads((folder / "annotations" / "instances_default.json").read_text())


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_sample(tmp_path_factory.mktemp("sample") / "dump", images=60, seed=3)


def test_the_layout_is_that_of_cvats_coco_export(sample: Path):
    content = read(sample)
    assert set(content) == {"licenses", "info", "categories", "images", "annotations"}
    assert [(c["id"], c["name"]) for c in content["categories"]] == list(enumerate(CLASSES, start=1))
    assert [image["id"] for image in content["images"]] == list(range(1, 61))
    assert [row["id"] for row in content["annotations"]] == list(range(1, len(content["annotations"]) + 1))
    for row in content["annotations"]:
        assert row["segmentation"] == []
        assert row["iscrowd"] == 0
        assert row["area"] == pytest.approx(row["bbox"][2] * row["bbox"][3], abs=0.01)
    files = {path.name for path in (sample / "images").iterdir()}
    assert files == {image["file_name"] for image in content["images"]}
    for image in content["images"]:
        with Image.open(sample / "images" / image["file_name"]) as picture:
            assert picture.size == (image["width"], image["height"]) == (SIDE, SIDE)


def test_boxes_lie_in_the_image_around_something_unlike_the_ground(sample: Path):
    content = read(sample)
    for row in content["annotations"]:
        x, y, width, height = row["bbox"]
        assert min(x, y) >= 0
        assert x + width <= SIDE
        assert y + height <= SIDE
        assert min(width, height) >= 8
        name = content["images"][row["image_id"] - 1]["file_name"]
        with Image.open(sample / "images" / name) as picture:
            pixels = np.asarray(picture.convert("HSV"), dtype=float)
        # The fill is a strong colour, the ground a muted one.
        middle = pixels[round(y + height / 2), round(x + width / 2)]
        assert middle[1] > 100


def test_every_class_and_some_empty_images_occur(sample: Path):
    content = read(sample)
    assert {row["category_id"] for row in content["annotations"]} == {1, 2, 3}
    with_objects = {row["image_id"] for row in content["annotations"]}
    assert 0 < 60 - len(with_objects) < 20


def test_the_same_seed_draws_the_same_bytes_and_another_does_not(sample: Path, tmp_path: Path):
    again, other = draw_sample(tmp_path / "again", 60, seed=3), draw_sample(tmp_path / "other", 60, seed=4)
    assert read(again) == read(sample)
    assert read(other) != read(sample)
    for path in (sample / "images").iterdir():
        assert (again / "images" / path.name).read_bytes() == path.read_bytes()
        assert (other / "images" / path.name).read_bytes() != path.read_bytes()


def test_a_small_sample_is_the_beginning_of_a_large_one(sample: Path, tmp_path: Path):
    small = draw_sample(tmp_path / "small", 5, seed=3)
    assert read(small)["images"] == read(sample)["images"][:5]
    name = read(small)["images"][4]["file_name"]
    assert (small / "images" / name).read_bytes() == (sample / "images" / name).read_bytes()


def test_a_sample_of_nothing_is_refused(tmp_path: Path):
    with pytest.raises(ValueError, match="at least 1"):
        draw_sample(tmp_path, images=0)
