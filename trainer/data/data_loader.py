"""In which order, in which process and how far ahead the items of a dataset are loaded."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch.utils.data import DataLoader, Sampler

from trainer.data.coco_dataset import Batch, CocoDetection, collate
from trainer.data.transforms import Size
from trainer.device import cpu_limit
from trainer.errors import TrainerError

# Batches among which images change places to find others of their size. More of them pad less, and leave less to
# chance; with the paper's augmentation of COCO's sizes 16 bring the padding of batches of 8 from 44 to 15 % of
# the pixels, and twice as many to 13 %.
_WINDOW = 16
# One GPU takes fewer images than this many workers load; what is more only holds memory.
_MOST_WORKERS = 8


class EpochSampler(Sampler[list[tuple[int, int]]]):
    """Batches of (epoch, index) in an order that the seed and the epoch fix, from any batch on.

    Every image comes once an epoch. With several processes a step's batch has `batch_size * world_size` images,
    and is what one process with that batch size would see: the parts of the ranks, in their order, make it up.
    They differ by at most one image, and each rank takes the same number of steps. Only where the last batch of
    an epoch has fewer images than there are ranks is it filled up, from the beginning of the epoch's order, so
    that each has one.

    Set `epoch` and `first_batch` before iterating.
    """

    def __init__(
        self,
        size: int,
        batch_size: int,
        seed: int,
        *,
        rank: int = 0,
        world_size: int = 1,
        sizes: Callable[[int], Sequence[Size]] | None = None,
        epochs: int | None = None,
    ) -> None:
        """Takes what the order depends on.

        Args:
            size: number of images.
            batch_size: images a batch, in each process.
            seed: of the order.
            rank: number of this process, from 0.
            world_size: how many processes there are.
            sizes: width and height that each image will have in an epoch. With them, batches are made of images
                of like size, which need little padding; without, of any.
            epochs: to load nothing ahead that lies beyond; None where the end is not known.
        """
        self.size = size
        self.batch_size = batch_size
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.sizes = sizes
        self.epochs = epochs
        self.epoch = 0
        self.first_batch = 0

    def __len__(self) -> int:
        return -(-self.size // (self.batch_size * self.world_size))

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        return self.batches(self.epoch, self.first_batch)

    def batches(self, epoch: int, first_batch: int) -> Iterator[list[tuple[int, int]]]:
        """This rank's part of each batch of an epoch."""
        for batch in self._whole_batches(epoch)[first_batch:]:
            start, stop = (len(batch) * rank // self.world_size for rank in (self.rank, self.rank + 1))
            yield [(epoch, index) for index in batch[start:stop]]

    def _whole_batches(self, epoch: int) -> list[list[int]]:
        """The batches of all ranks together; the one that is not full comes last."""
        rng = random.Random(f"{self.seed}/{epoch}")
        order = list(range(self.size))
        rng.shuffle(order)
        whole = self.batch_size * self.world_size
        full = self.size - self.size % whole
        chosen, rest = order[:full], order[full:]
        if self.sizes is not None:
            chosen = _sort_in_windows(chosen, self.sizes(epoch), _WINDOW * whole)
        groups = [chosen[start : start + whole] for start in range(0, full, whole)]
        if self.sizes is not None:
            rng.shuffle(groups)
        if rest:
            missing = max(0, self.world_size - len(rest))
            groups.append(rest + list(itertools.islice(itertools.cycle(order), missing)))
        return groups


def _sort_in_windows(order: list[int], sizes: Sequence[Size], window: int) -> list[int]:
    """Each run of `window` indices by the longer side, the upright before the broad; equals stay as they are."""

    def longer_then_shorter(index: int) -> Size:
        width, height = sizes[index]
        return (width, height) if width > height else (-height, width)

    starts = range(0, len(order), window)
    return [index for start in starts for index in sorted(order[start : start + window], key=longer_then_shorter)]


class _Onwards(Sampler[list[tuple[int, int]]]):
    """A sampler's batches from a place on, epoch after epoch."""

    def __init__(self, sampler: EpochSampler) -> None:
        self.sampler = sampler
        self.start = (0, 0)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        first_epoch, first_batch = self.start
        for epoch in itertools.count(first_epoch):
            if epoch > first_epoch and epoch == self.sampler.epochs:
                return
            yield from self.sampler.batches(epoch, first_batch)
            first_batch = 0


class EpochLoader:
    """The batches of a sampler's epoch; the workers go on with the next epoch while its turn has not come.

    Otherwise every epoch, and the one after every validation, would begin by waiting for its first batch: with
    a few dozen steps an epoch that is a good part of the time.
    """

    def __init__(self, dataset: CocoDetection, sampler: EpochSampler, workers: int) -> None:
        """Takes the order, and the number of processes that load; 0 loads when a batch is asked for."""
        self.sampler = sampler
        self._onwards = _Onwards(sampler)
        self._loader = _loader(dataset, self._onwards, workers)
        self._ahead: Iterator[Batch] | None = None
        self._place: tuple[int, int] | None = None

    def __len__(self) -> int:
        return len(self.sampler)

    def __iter__(self) -> Iterator[Batch]:
        epoch, first_batch = place = self.sampler.epoch, self.sampler.first_batch
        if first_batch >= len(self):
            return
        if self._ahead is None or self._place != place or epoch == self.sampler.epochs:
            self._onwards.start = place
            self._ahead = iter(self._loader)
        for number in range(first_batch, len(self)):
            # Nowhere, should the batch not come: whoever tries again starts the loader anew.
            self._place = None
            batch = next(self._ahead)
            is_last = number + 1 == len(self)
            self._place = (epoch + 1, 0) if is_last else (epoch, number + 1)
            yield batch


def train_loader(dataset: CocoDetection, sampler: EpochSampler, workers: int) -> EpochLoader:
    """Batches of a shuffled epoch; set the sampler's `epoch` and `first_batch` before iterating."""
    return EpochLoader(dataset, sampler, workers)


def eval_loader(
    dataset: CocoDetection, batch_size: int, workers: int, *, rank: int = 0, world_size: int = 1
) -> DataLoader[Any]:
    """Every image once over all ranks, in batches of images of like size; images of one size in the file's order.

    A rank's share differs from another's by at most one image, and is empty where there are too few.
    """
    order = _sort_in_windows(list(range(len(dataset))), dataset.sizes_in(0), max(1, len(dataset)))[rank::world_size]
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
        raise TrainerError(line.removeprefix("trainer.errors.TrainerError: ")) from None
