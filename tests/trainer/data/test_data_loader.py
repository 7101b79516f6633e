from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from tests.trainer.drawing import CATEGORIES, draw_dataset, write_annotations
from trainer.data import data_loader as loading
from trainer.data.augmentation import LightTransform
from trainer.data.coco_dataset import CocoDetection
from trainer.data.data_loader import batches, default_workers, eval_loader, train_loader
from trainer.data.sampler import EpochSampler
from trainer.data.transforms import EvalTransform
from trainer.errors import TrainerError

KEEP = EvalTransform(64, 64)


def pixels(folder: Path, workers: int, **ranks: int) -> list[torch.Tensor]:
    path = folder / "annotations" / "instances_train.json"
    dataset = CocoDetection(path, LightTransform(64, 64), seed=1)
    sampler = EpochSampler(len(dataset), 4 // ranks.get("world_size", 1), seed=1, sizes=dataset.sizes_in, **ranks)
    return [batch.images for batch in batches(train_loader(dataset, sampler, workers))]


def test_workers_see_the_same_pixels(tmp_path: Path):
    folder = draw_dataset(tmp_path / "data")
    for alone, shared in zip(pixels(folder, 0), pixels(folder, 2), strict=True):
        assert torch.equal(alone, shared)


def test_ranks_see_the_same_pixels(tmp_path: Path):
    folder = draw_dataset(tmp_path / "data")
    parts = [pixels(folder, 0, rank=rank, world_size=2) for rank in range(2)]
    for whole, *shares in zip(pixels(folder, 0), *parts, strict=True):
        assert torch.equal(whole, torch.cat(shares))


@pytest.mark.parametrize("workers", [0, 2])
def test_loading_ahead_changes_nothing(dataset_dir: Path, workers: int):
    dataset = CocoDetection(dataset_dir / "annotations" / "instances_train.json", LightTransform(64, 64))

    def ids(loader, epoch: int, batches_seen: int) -> list[list[int]]:
        loader.sampler.epoch, loader.sampler.seen = epoch, frozenset()
        loader.sampler.seen = loader.sampler.seen_after(batches_seen)
        return [[int(target["image_id"]) for target in batch.targets] for batch in batches(loader)]

    def new_loader():
        return train_loader(dataset, EpochSampler(len(dataset), 2, 0, sizes=dataset.sizes_in, epochs=4), workers)

    loader = new_loader()
    # In order, again, back, from the middle, past the last epoch, and at an epoch's end.
    for place in [(0, 0), (1, 0), (1, 0), (0, 1), (1, 0), (3, 0), (4, 0), (2, 3)]:
        found = ids(loader, *place)
        assert found == [[dataset.image_ids[index] for _, index in group] for group in loader.sampler]
    # One that was left in the middle.
    loader.sampler.epoch, loader.sampler.seen = 0, frozenset()
    next(iter(loader))
    assert ids(loader, 0, 1) == ids(new_loader(), 0, 1)


def test_nothing_is_loaded_beyond_the_last_epoch(dataset_dir: Path):
    dataset = CocoDetection(dataset_dir / "annotations" / "instances_train.json", KEEP)
    loader = train_loader(dataset, EpochSampler(len(dataset), 2, 0, epochs=2), 1)
    for loader.sampler.epoch in (0, 1):
        assert len(list(loader)) == len(loader) == 3
    with pytest.raises(StopIteration):
        next(loader._ahead)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_broken_image_is_named_from_a_worker_process_too(tmp_path: Path, workers: int):
    folder = draw_dataset(tmp_path)
    dataset = CocoDetection(folder / "annotations" / "instances_train.json", KEEP)
    dataset.files[3].write_bytes(b"not an image")
    loader = train_loader(dataset, EpochSampler(len(dataset), 6, 0), workers)
    for loader_of_all in (loader, loader, eval_loader(dataset, 2, workers)):
        with pytest.raises(TrainerError) as caught:
            list(batches(loader_of_all))
        assert str(caught.value).startswith(f"image {dataset.files[3]} cannot be read")
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("world_size", [1, 2, 3, 9])
def test_ranks_evaluate_every_image_once(dataset_dir: Path, world_size: int):
    dataset = CocoDetection(dataset_dir / "annotations" / "instances_train.json", KEEP)
    loaders = [eval_loader(dataset, 2, 0, rank=rank, world_size=world_size) for rank in range(world_size)]
    shares = [[int(t["image_id"]) for batch in loader for t in batch.targets] for loader in loaders]
    assert sorted(image_id for share in shares for image_id in share) == dataset.image_ids
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_workers_need_not_be_forked(tmp_path: Path):
    # The default from Python 3.14 on. A tensor an image would take more descriptors than may be sent at once.
    folder = draw_dataset(tmp_path, train=300, size=(32, 32))
    dataset = CocoDetection(folder / "annotations" / "instances_train.json", EvalTransform(32, 32))
    loader = eval_loader(dataset, 100, 1)
    loader.multiprocessing_context = "forkserver"
    assert [len(batch.targets) for batch in loader] == [100, 100, 100]


def test_evaluation_puts_images_of_one_size_together(tmp_path: Path):
    content: dict[str, list[dict[str, object]]] = {"images": [], "annotations": [], "categories": CATEGORIES}
    for index in range(12):
        size = [(40, 30), (30, 40), (30, 30)][index % 3]
        Image.new("RGB", size).save(tmp_path / f"{index}.png")
        content["images"].append({"id": index, "file_name": f"{index}.png", "width": size[0], "height": size[1]})
    dataset = CocoDetection(write_annotations(tmp_path, "val", content), KEEP)
    loaded = list(eval_loader(dataset, 4, 0))
    assert not any(batch.padding_mask.any() for batch in loaded)
    ids = [[int(target["image_id"]) for target in batch.targets] for batch in loaded]
    assert ids == [[1, 4, 7, 10], [2, 5, 8, 11], [0, 3, 6, 9]]


def test_workers_follow_the_cores(monkeypatch: pytest.MonkeyPatch):
    cuda = torch.device("cuda")
    for cores, processes, wanted in [(8, 1, 7), (64, 1, 8), (16, 2, 7), (1, 1, 0), (4, 8, 0)]:
        monkeypatch.setattr(loading, "cpu_limit", lambda cores=cores: cores)
        assert default_workers(cuda, processes) == wanted
    assert default_workers(torch.device("cpu")) == 0
