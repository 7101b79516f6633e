from __future__ import annotations

import pickle
from multiprocessing.reduction import ForkingPickler
from pathlib import Path

import pytest
import torch
from PIL import Image

from tests.trainer.drawing import CATEGORIES, write_annotations
from trainer.data.augmentation import train_transform
from trainer.data.batch import MEAN, STD, collate, normalize
from trainer.data.coco_dataset import CocoDetection
from trainer.data.transforms import to_tensor

LEVELS = tuple(tuple(255 * share for share in shares) for shares in (MEAN, STD))


def test_a_batch_is_padded_and_masked():
    target = {"labels": torch.zeros(0, dtype=torch.int64)}
    white = [torch.full((3, 4, 7), 255, dtype=torch.uint8), torch.full((3, 6, 5), 255, dtype=torch.uint8)]
    batch = collate([(image, target) for image in white])
    assert batch.images.shape == (2, 3, 6, 7)
    assert batch.padding_mask.shape == (2, 6, 7)
    assert (~batch.padding_mask).sum((1, 2)).tolist() == [28, 30]
    floats = normalize(batch.images, batch.padding_mask, *LEVELS)
    for channel in range(3):
        assert torch.equal(floats[:, channel] == 0, batch.padding_mask)


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
    floats = normalize(batch.images, batch.padding_mask, *LEVELS)
    assert torch.allclose(floats, plain_batch(items), atol=1e-5)
    assert floats.is_contiguous()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
def test_a_batch_goes_through_pinned_memory_unchanged(tmp_path: Path):
    dataset = photographs(tmp_path)
    items = [dataset[index] for index in range(4)]
    pinned = collate(items).pin_memory()
    assert pinned.images.is_pinned()
    assert pinned.targets[0]["boxes"].is_pinned()
    on_gpu = pinned.to(torch.device("cuda"))
    floats = normalize(on_gpu.images, on_gpu.padding_mask, *LEVELS)
    assert torch.allclose(floats.cpu(), plain_batch(items), atol=1e-5)
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


def test_normalisation():
    images = to_tensor(Image.new("RGB", (5, 4), (255, 0, 128)))[None]
    assert images.shape == (1, 3, 4, 5)
    before = images.clone()
    mask = torch.zeros(1, 4, 5, dtype=torch.bool)
    mask[:, :, 4] = True
    floats = normalize(images, mask, *LEVELS)
    wanted = [(1 - 0.485) / 0.229, (0 - 0.456) / 0.224, (128 / 255 - 0.406) / 0.225]
    assert floats[0, :, 0, 0].tolist() == pytest.approx(wanted, abs=1e-5)
    assert (floats[..., 4] == 0).all()
    assert torch.equal(images, before)
