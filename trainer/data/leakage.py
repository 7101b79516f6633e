"""Validation images that are training images, or nearly: small grey copies of both are compared."""

from __future__ import annotations

import bisect
import hashlib
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from trainer.data.coco_dataset import CocoDetection
from trainer.data.images import read_thumbnail
from trainer.data.transforms import Size
from trainer.device import cpu_limit

_WORTH_SAYING = 0.02
"""Share of images from which on likeness is no accident."""
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


@dataclass(frozen=True)
class Look:
    """What some images of a dataset look like from afar."""

    files: list[Path]
    levels: np.ndarray
    """Grey levels of a small copy of each, `[n, side²]` float32, with mean 0 and deviation 1."""
    flat: np.ndarray
    """Whether a copy shows next to nothing, bool `[n]`."""
    listed: list[Size]
    sizes: list[Size]
    """Width and height in px, as the annotations give it and as it is."""


def look_at(dataset: CocoDetection, chosen: list[int]) -> Look:
    files = [dataset.files[index] for index in chosen]
    with ThreadPoolExecutor(cpu_limit()) as pool:
        copies = list(pool.map(lambda file: read_thumbnail(file, _THUMBNAIL), files))
    grey = np.array([copy for copy, _ in copies], np.float32).reshape(len(files), _THUMBNAIL**2)
    deviation = grey.std(1, keepdims=True)
    levels = (grey - grey.mean(1, keepdims=True)) / np.maximum(deviation, 1e-6)
    return Look(
        files, levels, deviation[:, 0] < _FLAT, [dataset.sizes[index] for index in chosen], [size for _, size in copies]
    )


def leaks(train_set: CocoDetection, val_set: CocoDetection, train: Look, val: Look) -> Iterator[str]:
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


def choose_images(train_set: CocoDetection, val_set: CocoDetection) -> tuple[list[int], list[int]]:
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


def _alike(train: Look, val: Look) -> Iterator[tuple[Path, Path]]:
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
