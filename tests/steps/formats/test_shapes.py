"""Boxes around shapes, against the shapes painted and, for masks, against pycocotools."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from steps.formats.shapes import (
    around_ellipse,
    around_pixels,
    around_points,
    around_polygons,
    around_rle,
    around_rotated,
)


def painted(seed: int) -> np.ndarray:
    """A random mask `[height, width]`, often of a few pixels or none."""
    draw = np.random.default_rng(seed)
    height, width = draw.integers(1, 40, 2)
    mask = np.zeros((height, width), np.uint8)
    for _ in range(draw.integers(0, 4)):
        y, x = draw.integers(0, height), draw.integers(0, width)
        mask[y : y + draw.integers(1, 12), x : x + draw.integers(1, 12)] = 1
    return mask


def counts(mask: np.ndarray) -> list[int]:
    """Lengths of runs down the columns, zeros first."""
    flat = mask.flatten(order="F")
    edges = np.flatnonzero(np.diff(flat)) + 1
    runs = np.diff(np.concatenate([[0], edges, [len(flat)]])).tolist()
    return [0, *runs] if flat[0] else runs


@pytest.mark.parametrize("seed", range(60))
def test_masks(seed: int) -> None:
    mask = painted(seed)
    encoded = coco_mask.encode(np.asfortranarray(mask))
    expected = tuple(coco_mask.toBbox(encoded)) if mask.any() else None
    size = list(mask.shape)
    for form in (encoded["counts"], encoded["counts"].decode(), counts(mask)):
        assert around_rle({"size": size, "counts": form}) == expected


def test_mask_with_long_runs() -> None:
    mask = np.zeros((900, 1200), np.uint8)
    mask[100:850, 5:1100] = 1
    encoded = coco_mask.encode(np.asfortranarray(mask))
    assert around_rle(encoded) == (5, 100, 1095, 750)


@pytest.mark.parametrize(
    "mask",
    [
        {},
        {"size": [4, 4]},
        {"size": [4, 4], "counts": []},
        {"size": [4, 4], "counts": [16]},
        {"size": [4, 4], "counts": [0, 17]},
        {"size": [4, 4], "counts": [-1, 3]},
        {"size": [4, 4], "counts": [1.5, 3]},
        {"size": [4, 4], "counts": "\x00\xff"},
        {"size": [4, 4], "counts": "o" * 99},
        {"size": [4], "counts": [0, 4]},
        {"size": "4x4", "counts": [0, 4]},
        {"size": [0, 0], "counts": [0, 0]},
        {"size": [True, 4], "counts": [0, 4]},
    ],
)
def test_what_is_no_mask(mask: dict[str, object]) -> None:
    assert around_rle(mask) is None


@pytest.mark.parametrize("degrees", [0, 30, 45, 90, 133, 180, 270, 359.5, -45])
def test_turned_box_and_ellipse(degrees: float) -> None:
    turn = math.radians(degrees)
    corners = [(-10, -4), (10, -4), (10, 4), (-10, 4)]
    outline = [(20 * math.cos(t), 8 * math.sin(t)) for t in np.linspace(0, 2 * math.pi, 20_000)]

    def turned(points: list[tuple[float, float]]) -> tuple[float, ...] | None:
        cosine, sine = math.cos(turn), math.sin(turn)
        return around_points((60 + x * cosine - y * sine, 50 + x * sine + y * cosine) for x, y in points)

    assert around_rotated(50, 46, 20, 8, degrees) == pytest.approx(turned(corners))
    assert around_ellipse(60, 50, 20, 8, degrees) == pytest.approx(turned(outline), abs=1e-4)


@pytest.mark.parametrize("degrees", [math.inf, math.nan, 10**400])
def test_an_angle_without_end_makes_no_box(degrees: float) -> None:
    for box in (around_rotated(50, 46, 20, 8, degrees), around_ellipse(60, 50, 20, 8, degrees)):
        assert not any(map(math.isfinite, box[2:]))


def ellipse(radius_x: int, radius_y: int) -> NDArray[np.bool_]:
    """An ellipse about (40, 30), painted through the centres of its outermost pixels."""
    y, x = np.mgrid[:60, :80]
    return ((x - 40) / radius_x) ** 2 + ((y - 30) / radius_y) ** 2 <= 1


RECTANGLE = np.zeros((60, 80), bool)
RECTANGLE[5:16, 10:31] = True
TRIANGLE = np.tril(np.ones((21, 21), bool))


@pytest.mark.parametrize(
    ("pixels", "box"),
    [
        (ellipse(20, 10), (20, 20, 40.5, 20.5)),
        (ellipse(5, 9), (35, 21, 10.5, 18.5)),
        (RECTANGLE, (10, 5, 21, 11)),
        (TRIANGLE, (0, 0, 21, 21)),
        (ellipse(20, 10)[:, :40], (20, 21, 20, 19)),
        (np.zeros((3, 3), bool), None),
    ],
)
def test_painted_shapes(pixels: NDArray[np.bool_], box: tuple[float, ...] | None) -> None:
    assert around_pixels(pixels) == box
    encoded = coco_mask.encode(np.asfortranarray(pixels, np.uint8))
    assert around_rle(encoded, painted=True) == box
    # What no one painted is as wide as its pixels.
    assert around_rle(encoded) == (box and tuple(map(math.ceil, box)))


@pytest.mark.parametrize(
    ("polygons", "expected"),
    [
        ([[1, 2, 5, 2, 5, 9]], (1, 2, 4, 7)),
        ([["1", "2", "5.5", "2", "5.5", "9"]], (1, 2, 4.5, 7)),
        ([[1, 2, 5, 2, 5]], (1, 2, 4, 0)),
        ([], None),
        ([[]], None),
        ([[1, 2, float("nan"), 3]], None),
        ([[1, 2, None, 3]], None),
        (["text"], None),
        ([7], None),
        ([[10**400, 1]], None),
    ],
)
def test_polygons(polygons: list[object], expected: tuple[float, ...] | None) -> None:
    assert around_polygons(polygons) == expected  # type: ignore[arg-type] # what a dump may hold
