"""In which process and how far ahead the items of a dataset are loaded."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader

from trainer.data.batch import Batch, collate
from trainer.data.coco_dataset import CocoDetection
from trainer.data.sampler import EndlessSampler, EpochSampler, sort_in_windows
from trainer.device import cpu_limit
from trainer.errors import TrainerError

# One GPU takes fewer images than this many workers load; what is more only holds memory.
_MOST_WORKERS = 8


class EpochLoader:
    """The batches of a sampler's epoch; the workers go on with the next epoch while its turn has not come.

    Otherwise every epoch, and the one after every validation, would begin by waiting for its first batch: with
    a few dozen steps an epoch that is a good part of the time.
    """

    def __init__(self, dataset: CocoDetection, sampler: EpochSampler, workers: int) -> None:
        """Takes the order, and the number of processes that load; 0 loads when a batch is asked for."""
        self.sampler = sampler
        self._loader = _loader(dataset, EndlessSampler(sampler), workers)
        self._ahead: Iterator[Batch] | None = None
        self._next_epoch: int | None = None

    def __len__(self) -> int:
        return len(self.sampler)

    def __iter__(self) -> Iterator[Batch]:
        epoch, steps = self.sampler.epoch, len(self.sampler)
        if not steps:
            return
        if self._ahead is None or self._next_epoch != epoch or self.sampler.seen or epoch == self.sampler.epochs:
            self._ahead = iter(self._loader)
        # None, should a batch not come or not be asked for: whoever tries again starts the loader anew.
        self._next_epoch = None
        for number in range(1, steps + 1):
            batch = next(self._ahead)
            if number == steps:
                self._next_epoch = epoch + 1
            yield batch


def train_loader(dataset: CocoDetection, sampler: EpochSampler, workers: int) -> EpochLoader:
    """Batches of a shuffled epoch; set the sampler's `epoch` and `seen` before iterating."""
    return EpochLoader(dataset, sampler, workers)


def eval_loader(
    dataset: CocoDetection, batch_size: int, workers: int, *, rank: int = 0, world_size: int = 1
) -> DataLoader[Any]:
    """Every image once over all ranks, in batches of images of like size; images of one size in the file's order.

    A rank's share differs from another's by at most one image, and is empty where there are too few.
    """
    order = sort_in_windows(list(range(len(dataset))), dataset.sizes_in(0), max(1, len(dataset)))[rank::world_size]
    groups = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    return _loader(dataset, groups, workers)


def _loader(dataset: CocoDetection, groups: Iterable[Any], workers: int) -> DataLoader[Any]:
    return DataLoader(
        dataset,
        batch_sampler=groups,
        collate_fn=collate,
        num_workers=workers,
        pin_memory=torch.cuda.is_available(),
        persistent_workers=workers > 0,
        # A generator of its own: the loader would otherwise draw a number from the global one, and dropout
        # after a resume would differ from dropout in a run that was never cut off.
        generator=torch.Generator(),
    )


def default_workers(device: torch.device, processes: int = 1) -> int:
    """How many processes should load images for each of `processes` that train on this machine.

    One core is left to the process that drives the GPU. Where the model is computed on the CPU, loading is next
    to nothing and workers would only take cores from it: 0.
    """
    if device.type == "cpu":
        return 0
    return min(_MOST_WORKERS, max(0, cpu_limit() // processes - 1))


def batches(loader: Iterable[Batch]) -> Iterator[Batch]:
    """Iterates a loader; an error of ours in a worker process comes out as it went in.

    Raises:
        TrainerError: an image cannot be read.
    """
    try:
        yield from loader
    except TrainerError as error:
        # torch puts the worker's traceback around the message, whose last line is the message itself.
        line = str(error).strip().splitlines()[-1]
        raise TrainerError(re.sub(r"^[\w.]+Error: ", "", line)) from None
