from __future__ import annotations

import contextlib
import json
import random
from pathlib import Path

import pytest
import torch
from PIL import Image
from torchvision.ops import box_convert

from tests.trainer.drawing import CATEGORIES, write_annotations
from trainer.data.augmentation import train_transform
from trainer.data.coco_dataset import CocoDetection
from trainer.data.fingerprint import file_digest
from trainer.data.transforms import EvalTransform
from trainer.errors import TrainerError

KEEP = EvalTransform(64, 64)


def one_image(folder: Path, boxes: list[list[float]], **annotation: object) -> Path:
    """A COCO file with one grey image of 64 x 48 px and the given boxes."""
    Image.new("RGB", (64, 48), (90, 90, 90)).save(folder / "one.png")
    content = {
        "images": [{"id": 5, "file_name": "one.png", "width": 64, "height": 48}],
        "annotations": [
            {"id": index, "image_id": 5, "category_id": 4, "bbox": box, **annotation} for index, box in enumerate(boxes)
        ],
        "categories": CATEGORIES,
    }
    return write_annotations(folder, "train", content)


def test_category_ids_become_labels_by_ascending_id(dataset_dir: Path):
    path = dataset_dir / "annotations" / "instances_train.json"
    dataset = CocoDetection(path, KEEP)
    assert [(category.id, category.name) for category in dataset.categories] == [(4, "nut"), (17, "bolt")]
    assert dataset.label_of == {4: 0, 17: 1}
    content = json.loads(path.read_text())
    for index, image_id in enumerate(dataset.image_ids):
        wanted = [dataset.label_of[a["category_id"]] for a in content["annotations"] if a["image_id"] == image_id]
        assert dataset[index][1]["labels"].tolist() == wanted


def test_a_flipped_bit_is_refused_or_changes_nothing(dataset_dir: Path):
    """As long as the file says what it said: its digest is in it, as the prepare step puts it there."""
    path = dataset_dir / "annotations" / "instances_train.json"
    content = json.loads(path.read_text())
    for image in content["images"]:
        image["sha256"] = file_digest(dataset_dir / image["file_name"])
    path.write_text(json.dumps(content))
    content["info"] = {"split_digest": CocoDetection(path, KEEP).digest}
    path.write_text(json.dumps(content))
    whole, wanted = path.read_bytes(), CocoDetection(path, KEEP)
    chance = random.Random(0)
    refused = 0
    for _ in range(600):
        place = chance.randrange(len(whole))
        damaged = bytearray(whole)
        damaged[place] ^= 1 << chance.randrange(8)
        path.write_bytes(damaged)
        found = None
        with contextlib.suppress(TrainerError):
            found = CocoDetection(path, KEEP)
        if found is None:
            refused += 1
        elif found.files == wanted.files:
            assert found.digest == wanted.digest
            assert found._boxes.tolist() == wanted._boxes.tolist(), damaged[place - 30 : place + 30]
        else:
            # The name of another image: whose bytes are others.
            (other,) = (n for n, (a, b) in enumerate(zip(found.files, wanted.files, strict=True)) if a != b)
            with pytest.raises(TrainerError, match="is not the one that was prepared"):
                found.sample(other)
    assert refused > 300


def test_images_without_boxes_are_kept(dataset_dir: Path):
    dataset = CocoDetection(dataset_dir / "annotations" / "instances_train.json", KEEP)
    assert len(dataset) == 6
    assert dataset.num_boxes == 10
    assert dataset.most_boxes == 2
    target = dataset[5][1]
    assert target["labels"].shape == (0,)
    assert target["boxes"].shape == (0, 4)


def test_an_item_has_fractions_and_both_sizes(tmp_path: Path):
    dataset = CocoDetection(one_image(tmp_path, [[16, 12, 32, 24]]), EvalTransform(96, 1000))
    image, target = dataset[0]
    assert image.shape == (3, 96, 128)
    assert target["boxes"].tolist() == [[0.5, 0.5, 0.5, 0.5]]
    assert target["orig_size"].tolist() == [48, 64]
    assert target["size"].tolist() == [96, 128]
    assert target["image_id"].tolist() == [5]


def test_boxes_are_cut_at_the_edge_and_empty_ones_go(tmp_path: Path):
    path = one_image(tmp_path, [[-8, 40, 24, 100], [10, 10, 0, 5], [70, 10, 5, 5], [10, 10, 5, -3]])
    boxes = CocoDetection(path, KEEP)[0][1]["boxes"]
    assert boxes.shape == (1, 4)
    corners = box_convert(boxes[0], "cxcywh", "xyxy") * torch.tensor([64.0, 48, 64, 48])
    assert corners.tolist() == pytest.approx([0, 40, 16, 48], abs=1e-4)


def test_the_class_with_the_smallest_objects_has_a_few_of_them(tmp_path: Path):
    path = one_image(tmp_path, [[1, 1, 4, 9]] * 10 + [[1, 1, 2, 2]] * 9 + [[1, 1, 12, 12]] * 30)
    content = json.loads(path.read_text())
    content["categories"] = [{"id": number, "name": name} for number, name in enumerate(["nut", "bolt", "plate"])]
    for number, box in enumerate(content["annotations"]):
        box["category_id"] = 0 if number < 10 else 1 if number < 19 else 2
    path.write_text(json.dumps(content))
    # The root of 4 x 9 px, of 48; there are too few bolts.
    assert CocoDetection(path, KEEP).smallest_class == ("nut", 6 / 48)
    content["annotations"] = content["annotations"][:5]
    path.write_text(json.dumps(content))
    assert CocoDetection(path, KEEP).smallest_class is None


def test_crowd_regions_are_left_out(tmp_path: Path):
    assert CocoDetection(one_image(tmp_path, [[1, 1, 5, 5]], iscrowd=1), KEEP).num_boxes == 0


def test_file_names_may_be_absolute_or_start_elsewhere(tmp_path: Path):
    (tmp_path / "a").mkdir()
    path = one_image(tmp_path / "a", [[1, 1, 5, 5]])
    content = json.loads(path.read_text())
    elsewhere = tmp_path / "b" / "annotations" / "instances_train.json"
    elsewhere.parent.mkdir(parents=True)
    elsewhere.write_text(json.dumps(content))
    assert len(CocoDetection(elsewhere, KEEP, images_root=tmp_path / "a")) == 1
    content["images"][0]["file_name"] = str(tmp_path / "a" / "one.png")
    elsewhere.write_text(json.dumps(content))
    assert CocoDetection(elsewhere, KEEP)[0][0].shape == (3, 48, 64)


def test_boxes_are_in_the_upright_image(tmp_path: Path):
    path = one_image(tmp_path, [[16, 12, 32, 24]])
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (48, 64)).save(tmp_path / "one.png", exif=exif)
    target = CocoDetection(path, KEEP)[0][1]
    assert target["orig_size"].tolist() == [48, 64]
    assert target["boxes"].tolist() == [[0.5, 0.5, 0.5, 0.5]]


@pytest.mark.parametrize("strength", ["none", "light", "paper", "strong"])
def test_sizes_are_known_before_an_image_is_opened(dataset_dir: Path, strength: str):
    path = dataset_dir / "annotations" / "instances_train.json"
    content = json.loads(path.read_text())
    for row in content["images"][:2]:
        # As some exporters leave them out.
        del row["width"]
        row["height"] = 0
    path.write_text(json.dumps(content))
    dataset = CocoDetection(path, train_transform(strength, 96, 120), seed=3)
    for epoch in (0, 7):
        sizes = dataset.sizes_in(epoch)
        for index in range(len(dataset)):
            assert dataset[epoch, index][0].shape == (3, *reversed(sizes[index]))


def test_what_is_missing_or_broken_is_named(tmp_path: Path):
    with pytest.raises(TrainerError, match=r"nowhere\.json does not exist"):
        CocoDetection(tmp_path / "nowhere.json", KEEP)
    path = one_image(tmp_path, [[1, 1, 5, 5]])
    content = json.loads(path.read_text())

    (tmp_path / "one.png").write_bytes(b"not an image")
    with pytest.raises(TrainerError, match=r"one\.png cannot be read"):
        CocoDetection(path, KEEP)[0]
    (tmp_path / "one.png").unlink()
    with pytest.raises(TrainerError, match=r"one\.png does not exist"):
        CocoDetection(path, KEEP)

    path.write_text(json.dumps({**content, "categories": None}))
    with pytest.raises(TrainerError, match="no list 'categories'"):
        CocoDetection(path, KEEP)
    path.write_text("{")
    with pytest.raises(TrainerError, match="not JSON"):
        CocoDetection(path, KEEP)


def test_boxes_of_an_unknown_category_or_image_are_refused(tmp_path: Path):
    with pytest.raises(TrainerError, match="category 99"):
        CocoDetection(one_image(tmp_path, [[1, 1, 5, 5]], category_id=99), KEEP)
    with pytest.raises(TrainerError, match="no image"):
        CocoDetection(one_image(tmp_path, [[1, 1, 5, 5]], image_id=6), KEEP)
