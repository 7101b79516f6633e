from __future__ import annotations

import itertools
import random

import pytest

from trainer.data.augmentation import PaperTransform
from trainer.data.sampler import EpochSampler
from trainer.data.transforms import Size


def coco_sizes(count: int) -> list[Size]:
    """Sizes as COCO's photographs have them, three of four broad."""
    rng = random.Random(0)
    return rng.choices([(640, 480), (480, 640), (640, 427), (500, 375)], [5, 2, 2, 1], k=count)


def padding(groups: list[list[tuple[int, int]]], sizes: list[Size]) -> float:
    """Share of the batches' pixels that is not image."""
    padded = shown = 0
    for group in groups:
        inside = [sizes[index] for _, index in group]
        padded += len(inside) * max(width for width, _ in inside) * max(height for _, height in inside)
        shown += sum(width * height for width, height in inside)
    return 1 - shown / padded


@pytest.mark.parametrize("sizes", [None, lambda epoch: coco_sizes(300)])
@pytest.mark.parametrize("world_size", [1, 3])
def test_an_epoch_sees_every_image_once_in_an_order_of_its_own(sizes, world_size: int):
    ranks = [EpochSampler(300, 8, 0, rank=rank, world_size=world_size, sizes=sizes) for rank in range(world_size)]
    orders = []
    for epoch in (0, 1):
        seen = []
        for sampler in ranks:
            sampler.epoch = epoch
            groups = list(sampler)
            assert len(groups) == len(sampler) == -(-300 // (8 * world_size))
            assert {len(group) for group in groups[:-1]} == {8}
            assert {e for group in groups for e, _ in group} == {epoch}
            seen += [index for group in groups for _, index in group]
        assert sorted(seen) == list(range(300))
        orders.append(seen)
    assert orders[0] != orders[1]


@pytest.mark.parametrize("sizes", [None, lambda epoch: coco_sizes(50)])
def test_an_order_can_be_taken_up_at_any_batch(sizes):
    sampler = EpochSampler(50, 8, seed=5, sizes=sizes)
    sampler.epoch = 3
    whole = list(sampler)
    assert len({tuple(group) for group in whole}) == 7
    for first in range(8):
        sampler.seen = frozenset()
        sampler.seen = sampler.seen_after(first)
        assert list(sampler) == whole[first:]
        assert (len(sampler), sampler.steps) == (7 - first, 7)


@pytest.mark.parametrize(("batch_size", "world_size"), [(2, 1), (3, 2), (8, 1), (5, 7)])
def test_an_epoch_resumed_with_other_settings_still_sees_every_image_once(batch_size: int, world_size: int):
    begun = EpochSampler(50, 8, seed=5, sizes=lambda epoch: coco_sizes(50))
    seen = begun.seen_after(3)
    assert len(seen) == 24
    images = []
    for rank in range(world_size):
        resumed = EpochSampler(50, batch_size, seed=6, rank=rank, world_size=world_size)
        resumed.seen = seen
        steps = list(resumed)
        assert len(steps) == len(resumed) == -(-26 // (batch_size * world_size))
        images += [index for step in steps for _, index in step]
    filled = max(0, world_size - 26 % (batch_size * world_size)) if world_size > 1 else 0
    assert len(images) == 26 + filled
    assert set(images) >= set(range(50)) - seen


@pytest.mark.parametrize("world_size", [2, 3, 4])
@pytest.mark.parametrize("size", [12, 31, 37, 48])
def test_ranks_together_take_the_steps_of_one_process(world_size: int, size: int):
    def sizes(epoch: int) -> list[Size]:
        return coco_sizes(size)

    alone = list(EpochSampler(size, 4 * world_size, seed=1, sizes=sizes))
    ranks = [list(EpochSampler(size, 4, 1, rank=r, world_size=world_size, sizes=sizes)) for r in range(world_size)]
    assert {len(steps) for steps in ranks} == {len(alone)}
    for whole, *parts in zip(alone, *ranks, strict=True):
        joined = [key for part in parts for key in part]
        assert joined[: len(whole)] == whole
        # Filled up only where a rank would have nothing.
        assert len(joined) == max(len(whole), world_size)
        assert max(map(len, parts)) - min(map(len, parts)) <= 1
    assert all(part for steps in ranks for part in steps)


def test_fewer_images_than_ranks_are_seen_by_several():
    for rank in range(5):
        (step,) = EpochSampler(2, 4, 0, rank=rank, world_size=5)
        assert len(step) == 1


def test_batches_of_like_sizes_need_little_padding_and_stay_random():
    sizes, dataset_sizes = PaperTransform(800, 1333), coco_sizes(2000)

    def planned(epoch: int) -> list[Size]:
        return [sizes.plan(s, random.Random(f"{epoch}/{i}")).size for i, s in enumerate(dataset_sizes)]

    plain, sorted_ = EpochSampler(2000, 8, 0), EpochSampler(2000, 8, 0, sizes=planned)
    assert padding(list(plain), planned(0)) > 0.4
    first = list(sorted_)
    assert padding(first, planned(0)) < 0.18
    sorted_.epoch = 1
    partners: dict[int, set[int]] = {}
    for group in [*first, *sorted_]:
        for _, index in group:
            partners.setdefault(index, set()).update(other for _, other in group if other != index)
    # Were batches fixed, each image would meet the same seven twice.
    assert sum(map(len, partners.values())) / 2000 > 13.5
    # Nor does an epoch go from small to large.
    widths = [sizes.plan(dataset_sizes[g[0][1]], random.Random(f"0/{g[0][1]}")).size[0] for g in first]
    rises = sum(a < b for a, b in itertools.pairwise(widths))
    assert 0.35 < rises / len(widths) < 0.65
