"""Masks that a dump holds as images."""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from steps.common.budgets import MOST_MASK_OBJECTS, MOST_MASK_PIXELS, MOST_MASK_RUNS, Budget
from steps.common.errors import StepError
from steps.formats.shapes import Box, around_runs
from trainer.data.image_file import ImageError, open_image

_OTHERWISE = "dump the task as 'CVAT for images 1.1'"
_BAND = 1 << 20
"""Pixels that are looked at at once."""


@contextmanager
def open_mask(path: Path) -> Iterator[Image.Image]:
    """Open a mask's image.

    Raises:
        StepError: it is not a readable image, or larger than any mask.
    """
    try:
        with open_image(path) as image:
            fits = image.width * image.height <= MOST_MASK_PIXELS
            if fits:
                image.load()
    except ImageError as error:
        raise StepError(f"{path} is not readable as a mask ({error.reason}): dump the task again") from None
    if not fits:
        raise StepError(f"{path} has more than {MOST_MASK_PIXELS:,} pixels, too many for a mask: {_OTHERWISE}")
    yield image


def read_mask(path: Path, mode: str = "") -> NDArray[Any]:
    """Give the pixels of a mask, `[height, width]` or `[height, width, channels]`.

    Args:
        path: of the image file.
        mode: as Pillow names it, such as `RGB`; empty: as the file has it.

    Raises:
        StepError: as `open_mask`.
    """
    with open_mask(path) as image:
        return np.asarray(image.convert(mode) if mode else image)


def colours(path: Path) -> Iterator[NDArray[np.int64]]:
    """Yield the pixels of a mask as 0xRRGGBB, band after band `[rows, width]`; raises as `open_mask`."""
    with open_mask(path) as image:
        rows = max(_BAND // image.width, 1)
        for top in range(0, image.height, rows):
            band = image.crop((0, top, image.width, min(top + rows, image.height))).convert("RGB")
            pixels = np.asarray(band).astype(np.int64)
            yield pixels[..., 0] << 16 | pixels[..., 1] << 8 | pixels[..., 2]


class Region(NamedTuple):
    """The pixels of one value in a mask."""

    value: int
    part: int
    """The value that most of the pixels have in the second mask; 0 without one."""
    box: Box


def regions(
    path: Path, bands: Iterator[NDArray[np.int64]], of_parts: Iterator[NDArray[np.int64]] | None = None
) -> Iterator[Region]:
    """Yield the regions of a mask by ascending value, each with the box around it, in one pass over the pixels.

    Args:
        path: of the mask, for messages.
        bands: its pixels, from 0 to below 2^31, band after band `[rows, width]`.
        of_parts: those of a second mask of the same size.

    Raises:
        StepError: the two have different sizes, or there are more regions than any mask has.
    """
    budget = Budget(MOST_MASK_RUNS, f"{path} is noise rather than a mask: {_OTHERWISE}")
    found: list[NDArray[np.int64]] = []
    top = 0
    for band in bands:
        mixed = band
        if of_parts is not None:
            other = next(of_parts, None)
            if other is None or other.shape != band.shape:
                raise StepError(f"{path} and its mask of classes have different sizes: dump the task again")
            mixed = band << 32 | other
        begins = np.ones(mixed.shape, bool)
        begins[:, 1:] = mixed[:, 1:] != mixed[:, :-1]
        rows, starts = np.nonzero(begins)
        budget.spend(len(rows))
        stops = np.append(starts[1:], band.shape[1])
        stops[stops == 0] = band.shape[1]
        values = mixed[rows, starts]
        found.append(np.stack([values >> 32, values & 0xFFFFFFFF] if of_parts is not None else [values, values * 0]))
        found[-1] = np.concatenate([found[-1], np.stack([rows + top, starts, stops])])
        top += len(band)
    if of_parts is not None and next(of_parts, None) is not None:
        raise StepError(f"{path} and its mask of classes have different sizes: dump the task again")
    columns = np.concatenate(found, axis=1)
    value, part, rows, starts, stops = columns[:, np.argsort(columns[0], kind="stable")]
    edges = [0, *(np.flatnonzero(np.diff(value)) + 1).tolist(), len(value)]
    if len(edges) - 1 > MOST_MASK_OBJECTS:
        raise StepError(f"{path} has more than {MOST_MASK_OBJECTS:,} colours, too many for a mask: {_OTHERWISE}")
    for begin, end in pairwise(edges):
        own = slice(begin, end)
        kinds, which = np.unique(part[own], return_inverse=True)
        most = np.bincount(which, weights=stops[own] - starts[own]).argmax()
        yield Region(int(value[begin]), int(kinds[most]), around_runs(rows[own], starts[own], stops[own]))
