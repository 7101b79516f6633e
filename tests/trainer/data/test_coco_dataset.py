from __future__ import annotations

import json
import pickle
from multiprocessing.reduction import ForkingPickler
from pathlib import Path

import pytest
import torch
from PIL import Image

from tests.trainer.drawing import CATEGORIES, write_annotations
from trainer.data.coco_dataset import CocoDetection, collate
from trainer.data.transforms import EvalTransform, train_transform
from trainer.errors import TrainerError
from trainer.models.box_ops import cxcywh_to_xyxy

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
    corners = cxcywh_to_xyxy(boxes[0]) * torch.tensor([64.0, 48, 64, 48])
    assert corners.tolist() == pytest.approx([0, 40, 16, 48], abs=1e-4)


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


def test_a_batch_is_padded_and_masked():
    target = {"labels": torch.zeros(0, dtype=torch.int64)}
    white = [torch.full((3, 4, 7), 255, dtype=torch.uint8), torch.full((3, 6, 5), 255, dtype=torch.uint8)]
    batch = collate([(image, target) for image in white])
    assert batch.images.shape == (2, 3, 6, 7)
    assert batch.padding_mask.shape == (2, 6, 7)
    assert (~batch.padding_mask).sum((1, 2)).tolist() == [28, 30]
    on_device = batch.to(torch.device("cpu"))
    for channel in range(3):
        assert torch.equal(on_device.images[:, channel] == 0, batch.padding_mask)


def plain_batch(items: list[tuple[torch.Tensor, dict[str, torch.Tensor]]]) -> torch.Tensor:
    """Each image normalised by itself, in the words of the formula, and then padded with zeros."""
    mean = torch.tensor([0.485, 0.456, 0.406])[:, None, None]
    std = torch.tensor([0.229, 0.224, 0.225])[:, None, None]
    images = [(image.float() / 255 - mean) / std for image, _ in items]
    batch = torch.zeros(len(images), 3, max(i.shape[1] for i in images), max(i.shape[2] for i in images))
    for place, image in zip(batch, images, strict=True):
        place[:, : image.shape[1], : image.shape[2]] = image
    return batch


def photographs(folder: Path) -> CocoDetection:
    """Four noisy images of different sizes."""
    content: dict[str, list[dict[str, object]]] = {"images": [], "annotations": [], "categories": CATEGORIES}
    for index, size in enumerate([(64, 48), (48, 64), (90, 30), (57, 57)]):
        Image.effect_noise(size, 90).convert("RGB").save(folder / f"{index}.png")
        content["images"].append({"id": index, "file_name": f"{index}.png", "width": size[0], "height": size[1]})
        content["annotations"].append({"id": index, "image_id": index, "category_id": 4, "bbox": [5, 5, 20, 20]})
    return CocoDetection(write_annotations(folder, "train", content), train_transform("paper", 96, 140))


def test_normalising_a_batch_on_its_device_is_normalising_each_image(tmp_path: Path):
    dataset = photographs(tmp_path)
    items = [dataset[index] for index in range(4)]
    batch = collate(items)
    assert batch.images.dtype == torch.uint8
    once = batch.to(torch.device("cpu"))
    assert torch.equal(once.images, plain_batch(items))
    assert once.images.is_contiguous()
    assert torch.equal(once.to(torch.device("cpu")).images, once.images)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
def test_a_batch_goes_through_pinned_memory_unchanged(tmp_path: Path):
    dataset = photographs(tmp_path)
    items = [dataset[index] for index in range(4)]
    pinned = collate(items).pin_memory()
    assert pinned.images.is_pinned()
    assert pinned.targets[0]["boxes"].is_pinned()
    on_gpu = pinned.to(torch.device("cuda"))
    assert torch.allclose(on_gpu.images.cpu(), plain_batch(items), atol=1e-6)
    assert torch.equal(on_gpu.images[:, 0].cpu() == 0, pinned.padding_mask)
    for before, after in zip(items, on_gpu.targets, strict=True):
        assert all(torch.equal(value, after[key].cpu()) for key, value in before[1].items())


def test_a_batch_survives_the_way_between_processes(tmp_path: Path):
    dataset = photographs(tmp_path)
    batch = collate([dataset[index] for index in range(4)])
    copy = pickle.loads(ForkingPickler.dumps(batch))
    assert torch.equal(copy.images, batch.images)
    assert torch.equal(copy.padding_mask, batch.padding_mask)
    for before, after in zip(batch.targets, copy.targets, strict=True):
        assert before.keys() == after.keys()
        for key, value in before.items():
            assert torch.equal(value, after[key])
            assert value.dtype == after[key].dtype
