"""The upright boxes around the shapes that dumps hold: x, y, width and height in the shape's own unit."""

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from steps.common.budgets import LARGEST
from steps.common.numbers import to_float

Box = tuple[float, float, float, float]
LAST_PIXEL = 0.5
"""Px that are taken from the right and lower edge of what may be an ellipse, or added to what may be an outline."""


UNEVEN = 4
"""Of the pixels along an ellipse, one in so many may change by a half turn: OpenCV paints its two halves so."""


def around_points(points: Iterable[tuple[float, float]]) -> Box | None:
    """Give the box around points (x, y); None where there is none, or one is not finite."""
    corners = list(points)
    if not corners or not all(math.isfinite(value) for corner in corners for value in corner):
        return None
    xs, ys = zip(*corners, strict=True)
    return min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)


def around_polygons(polygons: Iterable[Sequence[Any]]) -> Box | None:
    """Give the box around polygons, each a flat list x1, y1, x2, y2, ... of numbers or of text that holds them."""
    try:
        flat = [[to_float(value) for value in polygon] for polygon in polygons]
    except (TypeError, ValueError):
        return None
    return around_points(pair for polygon in flat for pair in zip(polygon[::2], polygon[1::2], strict=False))


def around_rotated(x: float, y: float, width: float, height: float, degrees: float) -> Box:
    """Give the box around one that CVAT turned about its centre."""
    turn = _radians(degrees)
    cosine, sine = abs(math.cos(turn)), abs(math.sin(turn))
    return _about(x + width / 2, y + height / 2, width * cosine + height * sine, width * sine + height * cosine)


def around_ellipse(cx: float, cy: float, rx: float, ry: float, degrees: float = 0.0) -> Box:
    """Give the box around an ellipse with these radii, turned about its centre."""
    turn = _radians(degrees)
    half_width = math.hypot(rx * math.cos(turn), ry * math.sin(turn))
    half_height = math.hypot(rx * math.sin(turn), ry * math.cos(turn))
    return _about(cx, cy, 2 * half_width, 2 * half_height)


def _radians(degrees: float) -> float:
    """Give an angle in radians; one without an end is not a number, and makes its box none."""
    try:
        return math.radians(degrees) if math.isfinite(degrees) else math.nan
    except OverflowError:
        return math.nan


def _about(cx: float, cy: float, width: float, height: float) -> Box:
    return cx - width / 2, cy - height / 2, width, height


def around_rle(mask: Mapping[str, Any], *, painted: bool = False) -> Box | None:
    """Give the box around a mask in COCO's run-length encoding, without painting it.

    `size` is height and width; `counts` are the lengths of runs of 0 and 1 in turn, down the columns, as a list or
    in COCO's text form (pycocotools, common/maskApi.c: rleFrString, rleToBbox). None: it is not such a mask, or empty.

    Args:
        mask: the mask.
        painted: whether it may be an ellipse that CVAT painted, as for `around_pixels`.
    """
    size, counts = mask.get("size"), mask.get("counts")
    if isinstance(counts, str | bytes):
        counts = _decode(counts.encode() if isinstance(counts, str) else counts)
    if not isinstance(counts, Sequence) or not isinstance(size, Sequence) or len(size) != 2:
        return None
    if not all(type(value) is int for value in (*size, *counts)) or min(*size, *counts, 0) < 0 or not size[0]:
        return None
    if max(*size, *counts, 0) > LARGEST:
        return None
    height, width = size
    edges = list(accumulate(counts))
    if not edges or edges[-1] > height * width:
        return None
    # A run of ones starts where one of zeros ends, and covers the pixels [start, end) of the columns in line.
    runs = [(start, end - 1) for start, end in zip(edges[::2], edges[1::2], strict=False) if end > start]
    if not runs:
        return None
    left, right = runs[0][0] // height, runs[-1][1] // height
    top, bottom = height, -1
    for first, last in runs:
        if first // height != last // height:
            # Across the foot of a column: it holds the lowest row, and the next column's highest.
            top, bottom = 0, height - 1
            break
        top, bottom = min(top, first % height), max(bottom, last % height)
    box = left, top, right - left + 1, bottom - top + 1
    if not painted:
        return box
    # A run that goes on in the next column leaves no row to cut off.
    kept = bottom - top + 1
    starts = [(first // height - left) * kept + first % height - top for first, _ in runs]
    stops = [(last // height - left) * kept + last % height - top + 1 for _, last in runs]
    return _painted(box, starts, stops)


def around_pixels(mask: NDArray[np.bool_]) -> Box | None:
    """Give the box around the pixels `[height, width]` of an object that CVAT painted; None where there are none.

    A brush's mask ends where its last pixel does. An ellipse is painted through the centres of its outermost pixels
    (CVAT's transformations.py: EllipsesToMasks), so that its mask is one pixel wider and higher than itself. No dump
    tells which one a mask was, but an ellipse is odd in width and height and nearly the same after a half turn: of such
    a mask the last pixel counts half, and neither is off by more (held against a server's answers by test_real_cvat).
    """
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return None
    left, top, right, bottom = (int(edge) for edge in (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1))
    edges = np.diff(mask[top:bottom, left:right].ravel().astype(np.int8), prepend=0, append=0)
    box = left, top, right - left, bottom - top
    return _painted(box, np.flatnonzero(edges == 1), np.flatnonzero(edges == -1))


def around_runs(rows: NDArray[np.int64], starts: NDArray[np.int64], stops: NDArray[np.int64]) -> Box:
    """Give the box around the pixels of a painted object, as `around_pixels` does, from its runs along rows.

    Args:
        rows: the row of each run `[n]`, ascending; there is one at least.
        starts: its first column `[n]`.
        stops: the column behind its last `[n]`.
    """
    left, top = int(starts.min()), int(rows[0])
    width, height = int(stops.max()) - left, int(rows[-1]) + 1 - top
    begin = (rows - top) * width - left
    return _painted((left, top, width, height), begin + starts, begin + stops)


def _painted(box: tuple[int, int, int, int], starts: ArrayLike, stops: ArrayLike) -> Box:
    """Give the box around what was painted, from that around its pixels.

    Args:
        box: around the pixels.
        starts: where in the box's pixels, line after line, each run of painted ones starts `[n]`, ascending.
        stops: where it stops `[n]`.
    """
    width, height = box[2:]
    if not width % 2 or not height % 2 or width * height > LARGEST:
        return box
    starts, stops = np.asarray(starts, np.float64), np.asarray(stops, np.float64)
    # Pixels painted up to each place; a half turn of the box is its pixels in reverse.
    before = np.append(0.0, np.cumsum(stops - starts))
    places, painted = np.stack([starts, stops], 1).ravel(), np.stack([before[:-1], before[1:]], 1).ravel()
    total = float(width * height)
    unmoved = (np.interp(total - starts, places, painted) - np.interp(total - stops, places, painted)).sum()
    changed = 2 * (before[-1] - unmoved)
    if before[-1] < total and changed <= (width + height) / UNEVEN:
        return *box[:2], width - LAST_PIXEL, height - LAST_PIXEL
    return box


def _decode(text: bytes) -> list[int] | None:
    """Read COCO's text form: groups of five bits in ASCII from 48, the sixth says that more follow, and from the
    third count on each is the difference to the one before the last."""
    counts: list[int] = []
    value = shift = 0
    for sign in text:
        group = sign - 48
        if not 0 <= group < 64 or shift > 60:
            return None
        value |= (group & 31) << shift
        shift += 5
        if not group & 32:
            if group & 16:
                value -= 1 << shift
            counts.append(value + counts[-2] if len(counts) > 2 else value)
            value = shift = 0
    return None if shift else counts
