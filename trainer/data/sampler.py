"""In which order the items of a dataset are loaded."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator, Sequence

from torch.utils.data import Sampler

from trainer.data.transforms import Size

# Batches among which images change places to find others of their size. More of them pad less, and leave less to
# chance; with the paper's augmentation of COCO's sizes 16 bring the padding of batches of 8 from 44 to 15 % of
# the pixels, and twice as many to 13 %.
_WINDOW = 16


class EpochSampler(Sampler[list[tuple[int, int]]]):
    """Batches of (epoch, index) in an order that the seed and the epoch fix, of all images or of those still to come.

    Every image comes once an epoch. With several processes a step's batch has `batch_size * world_size` images,
    and is what one process with that batch size would see: the parts of the ranks, in their order, make it up.
    They differ by at most one image, and each rank takes the same number of steps. Only where the last batch of
    an epoch has fewer images than there are ranks is it filled up, from the beginning of the epoch's order, so
    that each has one.

    An epoch that is resumed leaves out what it has `seen`. With the settings that it was begun with, the batches are
    those that it would have had; with others, such as another batch size, each image still comes once.

    Set `epoch` and `seen` before iterating.
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
        self.seen: frozenset[int] = frozenset()

    def __len__(self) -> int:
        return -(-(self.size - len(self.seen)) // self._whole)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        return self.batches(self.epoch, self.seen)

    @property
    def steps(self) -> int:
        """Batches of an epoch from its beginning."""
        return -(-self.size // self._whole)

    def seen_after(self, batches: int) -> frozenset[int]:
        """The images that all ranks have seen in the epoch when so many of its batches are done."""
        return self.seen.union(*self._whole_batches(self.epoch, self.seen)[:batches])

    def batches(self, epoch: int, seen: frozenset[int]) -> Iterator[list[tuple[int, int]]]:
        """This rank's part of each batch of an epoch."""
        for batch in self._whole_batches(epoch, seen):
            start, stop = (len(batch) * rank // self.world_size for rank in (self.rank, self.rank + 1))
            yield [(epoch, index) for index in batch[start:stop]]

    @property
    def _whole(self) -> int:
        return self.batch_size * self.world_size

    def _whole_batches(self, epoch: int, seen: frozenset[int]) -> list[list[int]]:
        """The batches of all ranks together; the one that is not full comes last."""
        rng = random.Random(f"{self.seed}/{epoch}")
        order = list(range(self.size))
        rng.shuffle(order)
        whole = self._whole
        full = self.size - self.size % whole
        chosen = order[:full]
        if self.sizes is not None:
            chosen = sort_in_windows(chosen, self.sizes(epoch), _WINDOW * whole)
        groups = _in_groups(chosen, whole)
        if self.sizes is not None:
            rng.shuffle(groups)
        to_come = [index for index in [*itertools.chain(*groups), *order[full:]] if index not in seen]
        groups = _in_groups(to_come, whole)
        if groups:
            missing = max(0, self.world_size - len(groups[-1]))
            groups[-1] += itertools.islice(itertools.cycle(order), missing)
        return groups


def _in_groups(order: list[int], size: int) -> list[list[int]]:
    return [order[start : start + size] for start in range(0, len(order), size)]


def sort_in_windows(order: list[int], sizes: Sequence[Size], window: int) -> list[int]:
    """Each run of `window` indices by the longer side, the upright before the broad; equals stay as they are."""

    def longer_then_shorter(index: int) -> Size:
        width, height = sizes[index]
        return (width, height) if width > height else (-height, width)

    starts = range(0, len(order), window)
    return [index for start in starts for index in sorted(order[start : start + window], key=longer_then_shorter)]


class EndlessSampler(Sampler[list[tuple[int, int]]]):
    """A sampler's batches from where it stands, epoch after epoch."""

    def __init__(self, sampler: EpochSampler) -> None:
        self.sampler = sampler

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        first_epoch, seen = self.sampler.epoch, self.sampler.seen
        for epoch in itertools.count(first_epoch):
            if epoch > first_epoch and epoch == self.sampler.epochs:
                return
            yield from self.sampler.batches(epoch, seen)
            seen = frozenset()
