from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from drawing import CATEGORIES, draw_dataset, write_annotations
from PIL import Image

from trainer.boxes import cxcywh_to_xyxy
from trainer.data import CocoDetection, EpochSampler, batches, collate, eval_loader, train_loader
from trainer.errors import TrainerError
from trainer.transforms import EvalTransform, LightTransform

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


@pytest.mark.parametrize("mode", ["L", "RGBA", "P"])
def test_any_image_mode_is_read_as_rgb(tmp_path: Path, mode: str):
    path = one_image(tmp_path, [])
    Image.new(mode, (64, 48)).save(tmp_path / "one.png")
    assert CocoDetection(path, KEEP)[0][0].shape[0] == 3


def test_exif_orientation_is_not_applied(tmp_path: Path):
    path = one_image(tmp_path, [])
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (64, 48)).save(tmp_path / "one.png", exif=exif)
    assert CocoDetection(path, KEEP)[0][1]["orig_size"].tolist() == [48, 64]


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


def test_a_broken_image_is_named_from_a_worker_process_too(tmp_path: Path):
    path = one_image(tmp_path, [])
    (tmp_path / "one.png").write_bytes(b"not an image")
    with pytest.raises(TrainerError) as caught:
        list(batches(eval_loader(CocoDetection(path, KEEP), 1, workers=1)))
    assert str(caught.value).startswith(f"image {tmp_path / 'one.png'} cannot be read")
    assert "\n" not in str(caught.value)


def test_boxes_of_an_unknown_category_or_image_are_refused(tmp_path: Path):
    with pytest.raises(TrainerError, match="category 99"):
        CocoDetection(one_image(tmp_path, [[1, 1, 5, 5]], category_id=99), KEEP)
    with pytest.raises(TrainerError, match="no image"):
        CocoDetection(one_image(tmp_path, [[1, 1, 5, 5]], image_id=6), KEEP)


def test_a_batch_is_padded_and_masked():
    target = {"labels": torch.zeros(0, dtype=torch.int64)}
    batch = collate([(torch.ones(3, 4, 7), target), (torch.ones(3, 6, 5), target)])
    assert batch.images.shape == (2, 3, 6, 7)
    assert batch.padding_mask.shape == (2, 6, 7)
    assert torch.equal(batch.images[:, 0] == 0, batch.padding_mask)
    assert (~batch.padding_mask).sum((1, 2)).tolist() == [28, 30]


def test_an_epoch_sees_every_image_once_in_an_order_of_its_own():
    sampler = EpochSampler(7, 3, seed=0)
    orders = []
    for epoch in (0, 1):
        sampler.epoch = epoch
        groups = list(sampler)
        assert len(groups) == len(sampler) == 3
        assert {e for group in groups for e, _ in group} == {epoch}
        orders.append([index for group in groups for _, index in group])
        assert sorted(orders[-1]) == list(range(7))
    assert orders[0] != orders[1]
    sampler.first_batch = 2
    assert [index for group in sampler for _, index in group] == orders[1][6:]


def test_workers_see_the_same_pixels(tmp_path: Path):
    folder = draw_dataset(tmp_path / "data")

    def pixels(workers: int) -> list[torch.Tensor]:
        path = folder / "annotations" / "instances_train.json"
        dataset = CocoDetection(path, LightTransform(64, 64), seed=1)
        sampler = EpochSampler(len(dataset), 4, seed=1)
        return [batch.images for batch in batches(train_loader(dataset, sampler, workers))]

    for alone, shared in zip(pixels(0), pixels(2), strict=True):
        assert torch.equal(alone, shared)
