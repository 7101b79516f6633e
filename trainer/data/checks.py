"""A look at the data before the training: what will keep the model from learning, in words."""

from __future__ import annotations

import bisect
import hashlib
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from trainer.data.coco_dataset import CocoDetection
from trainer.data.images import read_thumbnail
from trainer.data.transforms import Size, scaled
from trainer.device import cpu_limit

_FEW_BOXES = 10
"""Boxes below which a class is hardly learned."""
_SMALL_SIDE = 4
"""Px of a box's shorter side below which there is too little to see."""
_WORTH_SAYING = 0.02
"""Share of boxes or images from which on a matter is no accident."""
_FEW_VAL_IMAGES, _FEW_VAL_BOXES = 20, 50
_MOST_LOOKED_AT = 2000
"""Images that are opened at most; a thousandth to a hundredth of a second each."""
_THUMBNAIL = 32
"""Side of the copies that are compared, in px."""
_ALIKE = 0.985
"""Correlation of two copies' grey levels from which on they may show the same, ..."""
_NOWHERE_OFF = 0.55
"""... unless they differ somewhere by more than this many deviations of their levels: a thing that only one has."""
_BESIDE, _BESIDE_GAIN = 0.9, 5
"""Correlation from which on images with neighbouring names show the same scene, if what is missing from 1 is so many
times less than for other images: a moving camera moves the whole image, a fixed one makes all images alike."""
_FLAT = 4.0
"""Deviation of grey levels (of 255) below which a copy shows too little to compare."""
_SHOWN = 3


def look_over(
    train_set: CocoDetection, val_set: CocoDetection, *, num_queries: int, image_size: int, max_size: int
) -> list[str]:
    """Says what is wrong with the data, and what to do about it.

    Args:
        train_set: images to learn from.
        val_set: images to validate on, under the numbering of classes of `train_set`.
        num_queries: the most objects that the model finds in an image.
        image_size: shorter side in px to predict at.
        max_size: limit in px for the longer side.

    Returns:
        One line for each matter, the most important first; none for data without fault. At most 2000 images are
        opened.

    Raises:
        TrainerError: an image cannot be read.
    """
    on_training_set = {file.resolve() for file in train_set.files} == {file.resolve() for file in val_set.files}
    train_look, val_look = (
        _look_at(dataset, chosen)
        for dataset, chosen in zip((train_set, val_set), _to_look_at(train_set, val_set), strict=True)
    )
    lines = [*_wrong_sizes(train_look, val_look), *_classes_to_learn(train_set)]
    lines += _objects_beyond_queries(train_set, val_set, num_queries)
    lines += _small_boxes(train_set, image_size, max_size)
    if on_training_set:
        lines.append(
            "the validation images are the training images: AP says how well they were learned by heart, and"
            " nothing about new ones; set val-split above 0 or annotate images for it"
        )
    else:
        lines += _leaks(train_set, val_set, train_look, val_look)
        lines += _few_to_validate(val_set)
        lines += _classes_to_validate(train_set, val_set)
    return lines


def _boxes_by_class(dataset: CocoDetection) -> Counter[int]:
    """Boxes of each label."""
    return Counter(label for index in range(len(dataset)) for label in dataset.objects(index)[1].tolist())


def _classes_to_learn(train_set: CocoDetection) -> Iterator[str]:
    counts = _boxes_by_class(train_set)
    names = [category.name for category in train_set.categories]
    absent = [name for label, name in enumerate(names) if not counts[label]]
    if absent:
        yield (
            f"no training image has a box of {_class_list(absent)}: nothing can be learned of it;"
            " annotate some, or remove the label"
        )
    rare = [f"{name} ({counts[label]})" for label, name in enumerate(names) if 0 < counts[label] < _FEW_BOXES]
    if rare:
        yield (
            f"fewer than {_FEW_BOXES} training boxes of {_class_list(rare)}, where the most frequent class has"
            f" {max(counts.values())}: it will hardly be found; annotate more, or merge it with another"
        )


def _classes_to_validate(train_set: CocoDetection, val_set: CocoDetection) -> Iterator[str]:
    learned, counts = _boxes_by_class(train_set), _boxes_by_class(val_set)
    absent = [
        category.name for label, category in enumerate(train_set.categories) if learned[label] and not counts[label]
    ]
    if absent and counts:
        yield (
            f"no validation image has a box of {_class_list(absent)}: AP leaves it out;"
            " annotate more, or raise val-split"
        )


def _few_to_validate(val_set: CocoDetection) -> Iterator[str]:
    if not len(val_set) or not val_set.num_boxes:
        what = "boxes on the validation images" if len(val_set) else "validation images"
        yield f"there are no {what}: no AP is measured, and the last epoch counts as the best; raise val-split"
    elif len(val_set) < _FEW_VAL_IMAGES or val_set.num_boxes < _FEW_VAL_BOXES:
        yield (
            f"{len(val_set)} validation images with {val_set.num_boxes} boxes are few: AP will move by several"
            f" points by chance; annotate more, or raise val-split (to trust it, {_FEW_VAL_IMAGES} images and"
            f" {_FEW_VAL_BOXES} boxes at the very least)"
        )


def _objects_beyond_queries(train_set: CocoDetection, val_set: CocoDetection, num_queries: int) -> Iterator[str]:
    crowded = [count for dataset in (train_set, val_set) for count in dataset.boxes_by_image if count > num_queries]
    if crowded:
        # A quarter more than the fullest image: queries specialise in places, and some always find nothing.
        wanted = math.ceil(max(crowded) * 1.25 / 10) * 10
        yield (
            f"{len(crowded)} image(s) have more boxes than the {num_queries} that the model finds at most, the"
            f" fullest {max(crowded)}: set num_queries to {wanted}"
        )


def _small_boxes(train_set: CocoDetection, image_size: int, max_size: int) -> Iterator[str]:
    sides, labels = [], []
    for index, size in enumerate(train_set.sizes):
        boxes, of_box = train_set.objects(index)
        scale = scaled(size, image_size, max_size)[0] / size[0]
        sides.append((boxes[:, 2:] - boxes[:, :2]).min(1).values * scale)
        labels.append(of_box)
    shorter = torch.cat(sides)
    small = shorter < _SMALL_SIDE
    if not len(shorter) or small.float().mean() < _WORTH_SAYING:
        return
    counts = Counter(torch.cat(labels)[small].tolist())
    hit = [f"{train_set.categories[label].name} ({count})" for label, count in counts.most_common()]
    # The size at which all but the tolerated share are large enough; the stride of the network divides it.
    factor = _SMALL_SIDE / max(float(shorter.quantile(_WORTH_SAYING)), 0.01)
    wanted = math.ceil(image_size * factor / 32) * 32
    remedy = f"raise image_size to {wanted} and max_size to {math.ceil(max_size * wanted / image_size)}"
    if factor > 3:
        remedy = "cut the images into tiles, or leave such boxes out"
    yield (
        f"{int(small.sum())} of {len(small)} training boxes are less than {_SMALL_SIDE} px wide or high at image_size"
        f" {image_size}, of {_list(hit)}: they will not be found; {remedy}"
    )


@dataclass(frozen=True)
class _Look:
    """What some images of a dataset look like from afar."""

    files: list[Path]
    levels: np.ndarray
    """Grey levels of a small copy of each, `[n, side²]` float32, with mean 0 and deviation 1."""
    flat: np.ndarray
    """Whether a copy shows next to nothing, bool `[n]`."""
    listed: list[Size]
    sizes: list[Size]
    """Width and height in px, as the annotations give it and as it is."""


def _look_at(dataset: CocoDetection, chosen: list[int]) -> _Look:
    files = [dataset.files[index] for index in chosen]
    with ThreadPoolExecutor(cpu_limit()) as pool:
        copies = list(pool.map(lambda file: read_thumbnail(file, _THUMBNAIL), files))
    grey = np.array([copy for copy, _ in copies], np.float32).reshape(len(files), _THUMBNAIL**2)
    deviation = grey.std(1, keepdims=True)
    levels = (grey - grey.mean(1, keepdims=True)) / np.maximum(deviation, 1e-6)
    return _Look(
        files, levels, deviation[:, 0] < _FLAT, [dataset.sizes[index] for index in chosen], [size for _, size in copies]
    )


def _wrong_sizes(*looks: _Look) -> Iterator[str]:
    wrong = [
        f"{file.name} is {there[0]}x{there[1]}, listed as {listed[0]}x{listed[1]}"
        for look in looks
        for file, listed, there in zip(look.files, look.listed, look.sizes, strict=True)
        if listed != there
    ]
    if wrong:
        yield (
            f"{len(wrong)} of {sum(len(look.files) for look in looks)} images looked at are not of the size that the"
            f" annotations are for ({wrong[0]}): their boxes lie elsewhere; dump images and annotations together"
        )


def _leaks(train_set: CocoDetection, val_set: CocoDetection, train: _Look, val: _Look) -> Iterator[str]:
    """Validation images that are training images, or nearly."""
    same = _same_content(train_set.files, val_set.files)
    if same:
        (val_file, train_file), *_ = same.items()
        yield (
            f"{len(same)} of {len(val_set)} validation images are training images too ({val_file.name} is"
            f" {train_file.name}): AP is too good; dump each image once"
        )
    alike = {val_file: twin for val_file, twin in _alike(train, val) if val_file not in same}
    if len(alike) > max(1, _WORTH_SAYING * len(val.files)):
        (val_file, train_file), *_ = alike.items()
        yield (
            f"{len(alike)} of {len(val.files)} validation images looked at are nearly a training image"
            f" ({val_file.name} and {train_file.name}), as neighbouring frames of a video are: AP is too good; put"
            " whole videos, or blocks of frames, into the subsets train and val"
        )


def _to_look_at(train_set: CocoDetection, val_set: CocoDetection) -> tuple[list[int], list[int]]:
    """All images where there are few; else validation images, and the training images beside them by name."""
    if len(train_set) + len(val_set) <= _MOST_LOOKED_AT:
        return list(range(len(train_set))), list(range(len(val_set)))
    val_chosen = _spread(len(val_set), _MOST_LOOKED_AT // 4)
    neighbours = _Neighbours(train_set.files)
    beside = {near for index in val_chosen for near in neighbours.of(val_set.files[index])}
    free = _MOST_LOOKED_AT - len(val_chosen) - len(beside)
    beside.update(_spread(len(train_set), free))
    return sorted(beside), val_chosen


def _spread(count: int, most: int) -> list[int]:
    """Indices of at most `most` of `count` things, evenly."""
    taken = min(count, most)
    return [place * count // taken for place in range(taken)]


def _same_content(train_files: list[Path], val_files: list[Path]) -> dict[Path, Path]:
    """Validation files, each with a training file of the same bytes."""
    by_length: dict[int, list[Path]] = {}
    for file in train_files:
        by_length.setdefault(file.stat().st_size, []).append(file)

    @cache
    def content(file: Path) -> bytes:
        return hashlib.sha256(file.read_bytes()).digest()

    pairs = {}
    for val in val_files:
        # Only files of one length can be the same, so that few are read.
        twin = next((f for f in by_length.get(val.stat().st_size, []) if content(f) == content(val)), None)
        if twin is not None:
            pairs[val] = twin
    return pairs


def _alike(train: _Look, val: _Look) -> Iterator[tuple[Path, Path]]:
    """Validation files, each with a training file that looks like it."""
    neighbours = _Neighbours(train.files)
    for file, levels, flat in zip(val.files, val.levels, val.flat, strict=True):
        if flat:
            continue
        correlations = np.where(train.flat, 0, train.levels @ levels / levels.size)
        copies = [
            int(place)
            for place in np.flatnonzero(correlations > _ALIKE)
            if np.abs(train.levels[place] - levels).max() < _NOWHERE_OFF
        ]
        least = 1 - (1 - np.median(correlations)) / _BESIDE_GAIN if len(correlations) else 1
        frames = [place for place in neighbours.of(file) if correlations[place] > max(_BESIDE, least)]
        if copies or frames:
            yield file, train.files[max((correlations[place], place) for place in copies + frames)[1]]


class _Neighbours:
    """Files by name, where the frames of a video lie side by side, whatever else is among them."""

    def __init__(self, files: list[Path]) -> None:
        self._by_name = sorted((_natural(file), place) for place, file in enumerate(files))

    def of(self, file: Path) -> list[int]:
        """Places of the file before and the file after another one."""
        after = bisect.bisect_left(self._by_name, (_natural(file), -1))
        return [place for _, place in self._by_name[max(0, after - 1) : after + 1]]


def _natural(file: Path) -> list[Any]:
    """Sorts frame 9 before frame 10; text and numbers alternate."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", str(file))]


def _class_list(names: list[str]) -> str:
    return f"class{'' if len(names) == 1 else 'es'} {_list(names)}"


def _list(names: Iterable[str]) -> str:
    names = list(names)
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
