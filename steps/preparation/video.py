"""Frames of a video: whether images are, and which of them belong together."""

import re
from collections import defaultdict
from collections.abc import Hashable, Sequence
from itertools import pairwise

import numpy as np

from steps.dataset.overlap import iou
from steps.preparation.clean import Clean

PARTS = 20
"""Blocks that a dump's frames are cut into, about."""


def frame_blocks(files: Sequence[str]) -> list[Hashable]:
    """Cut every sequence of frames into blocks of as many, so that there are about `PARTS` in all."""
    # A power of two: it changes only when the dump doubles.
    length = 2 ** max(round(np.log2(max(len(files), 1) / PARTS)), 0)
    groups: list[Hashable] = [None] * len(files)
    for name, frames in _sequences(files).items():
        for place, image in enumerate(frames):
            groups[image] = (name, place // length)
    return groups


def _sequences(files: Sequence[str]) -> dict[str, list[int]]:
    """Give the images by folder and by what stands before their number, in the order of that number."""
    found: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for image, file in enumerate(files):
        name, number = _numbered(file)
        found[name].append((number, image))
    return {name: [image for _, image in sorted(frames)] for name, frames in found.items()}


_NUMBER = re.compile(r"(\d{1,18})(?=\D*$)", re.ASCII)


def _numbered(file: str) -> tuple[str, int]:
    """Take the last number out of a file's name; -1 where it has none."""
    folder, _, base = file.rpartition("/")
    stem = base.rpartition(".")[0]
    number = _NUMBER.search(stem)
    if number is None:
        return folder, -1
    return f"{folder}/{stem[: number.start()]}", int(number[1])


FEWEST_FRAMES = 10
"""Images from which a sequence can look like a video."""
PAIRS = 300
"""Neighbouring images that are looked at."""
MOST_BOXES = 100
"""Boxes of each of them that are."""


def likely_video(data: Clean, known: bool) -> str:
    """Say why the images look like frames of a video; empty when they do not.

    Numbers that follow each other are no proof, as cameras count photographs too: boxes that lie in one image where
    they lie in the one before are.

    Args:
        data: the images and their boxes.
        known: whether the dump's format says so.
    """
    if known:
        return "the dump's format holds frames of a video"
    if len(data.files) < FEWEST_FRAMES:
        return ""
    if sum(file.rpartition("/")[2].startswith("frame_") for file in data.files) > len(data.files) / 2:
        return "the images are named as CVAT names the frames of a video"
    pairs = [
        (one, other)
        for frames in _sequences(data.files).values()
        if len(frames) >= FEWEST_FRAMES
        for one, other in pairwise(frames)
        if 0 < _numbered(data.files[other])[1] - _numbered(data.files[one])[1] <= 2
    ]
    if len(pairs) < len(data.files) / 2:
        return ""
    step = -(-len(pairs) // PAIRS)
    if _carried_over(data, pairs[::step]) < 0.5:
        return ""
    return "the images are numbered, and most boxes lie where they lie in the image before"


def _carried_over(data: Clean, pairs: Sequence[tuple[int, int]]) -> float:
    """The part of boxes that overlap one of their class in the next image by half or more (IoU)."""
    starts = np.searchsorted(data.boxes.image, np.arange(len(data.files) + 1))

    def of(image: int) -> tuple[np.ndarray, np.ndarray]:
        rows = slice(starts[image], min(starts[image + 1], starts[image] + MOST_BOXES))
        return data.boxes.xywh[rows], data.boxes.category[rows]

    boxes = same = 0
    for one, other in pairs:
        (a, class_a), (b, class_b) = of(one), of(other)
        if not len(a) or not len(b):
            continue
        overlaps = iou(a, b) >= 0.5
        boxes += len(a)
        same += int((overlaps & (class_a[:, None] == class_b[None])).any(1).sum())
    return same / boxes if boxes else 0.0
