"""Which image a frame number means, where a dump numbers its images by their place in the task.

CVAT orders a task's images by the path's characters (its default), naturally (numbers by their value, component by
component, without regard to case), as they were given, or by chance, and no dump says which
(cvat/apps/engine/media_extractors.py: SortingMethod). The order is known where the first two agree.
"""

import re
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from steps.common.errors import StepError
from steps.common.messages import printable
from steps.dataset.lookup import split_suffix
from steps.dataset.model import FrameOrder

_FRAME = re.compile(r"frame_(\d+)", re.ASCII)
_DIGITS = re.compile(r"(\d+)", re.ASCII)


def in_order(names: Sequence[str], order: FrameOrder, source: Path) -> list[str]:
    """Sort the images of a task as CVAT does.

    Args:
        names: paths of the images in the dump's folder of images.
        order: the task's sorting method; `auto`: the one that is sure.
        source: the annotation file, for messages.

    Raises:
        StepError: the order matters, and is not known.
    """
    lexicographical, natural = sorted(names), sorted(names, key=_natural)
    if order != "auto":
        return natural if order == "natural" else lexicographical
    if lexicographical != natural:
        first = next(one for one, other in zip(lexicographical, natural, strict=True) if one != other)
        other = natural[lexicographical.index(first)]
        raise StepError(
            f"{source} numbers images by their place in the task, and does not say whether '{printable(first)}' or "
            f"'{printable(other)}' comes first: give --frame-order lexicographical (CVAT's default) or natural, or "
            "dump the task as 'CVAT for images 1.1'"
        )
    return lexicographical


def one_sequence(names: Sequence[str]) -> bool:
    """Tell whether names differ in one number only, as those of a video's frames do."""
    stems = [split_suffix(name)[0] for name in names]
    parts = [_DIGITS.split(stem) for stem in stems]
    if len({len(part) for part in parts}) > 1:
        return False
    differing = {place for one, other in pairwise(parts) for place in range(len(one)) if one[place] != other[place]}
    return len(differing) <= 1 and all(place % 2 for place in differing)


def has_gaps(names: Sequence[str]) -> bool:
    """Tell whether names are those of a video's frames, and not evenly spaced: some were deleted, or are missing."""
    found = [_FRAME.fullmatch(split_suffix(name)[0]) for name in names]
    numbers = sorted(int(match[1]) for match in found if match)
    return len(numbers) == len(names) and len({after - before for before, after in pairwise(numbers)}) > 1


def _natural(name: str) -> list[tuple[tuple[int, int, str], ...]]:
    stem, suffix = split_suffix(name)
    return [
        tuple((0, int(part), "") if part.isdecimal() else (1, 0, part.casefold()) for part in _DIGITS.split(component))
        for component in (*stem.split("/"), suffix)
    ]
