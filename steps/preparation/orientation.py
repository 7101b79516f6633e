"""Where a dump's boxes are in the image files that there are: sizes and EXIF rotations.

CVAT shows and measures photographs upright since release 2.1 (cvat-ai/cvat#4529); before, and in Onepanel's fork of
2020, it took the pixels as they lie in the file. The size that a dump gives tells which it was.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from steps.dataset.findings import Action
from steps.dataset.model import Dataset
from steps.preparation.image_headers import UPRIGHT, Header

SIDEWAYS = 5
"""EXIF orientations from here on change width and height."""


def upright_boxes(
    dataset: Dataset, of_row: NDArray[np.int64], headers: Sequence[Header]
) -> tuple[list[tuple[int, int]], NDArray[np.float64]]:
    """Measure the boxes of a dump in px of the upright images.

    An image of the dump's own proportions and another size was resized, and its boxes are scaled with it. Of other
    sizes, the file's is taken and the boxes stay.

    Args:
        dataset: what the dump says.
        of_row: `[images of the dump]`: which of `headers` is each one's; -1 for none.
        headers: of the image files that are used.

    Returns:
        Width and height of each upright file, and x, y, width, height of each box `[boxes, 4]`.
    """
    files = np.array([header[:3] for header in headers], np.int64).reshape(-1, 3)
    sideways = files[:, 2] >= SIDEWAYS
    sizes = np.where(sideways[:, None], files[:, 1::-1], files[:, :2])
    upright, raw, orientation = sizes[of_row], files[of_row, :2], files[of_row, 2]
    stated = np.array([size or (0, 0) for size in dataset.sizes], np.int64).reshape(-1, 2)

    used, given = of_row >= 0, stated.all(1)
    turned = used & (orientation != UPRIGHT)
    as_upright, as_raw = given & _proportional(stated, upright), given & _proportional(stated, raw)
    # A rotation by half, or of a square, does not show in the size: the dump's other photographs tell.
    surely_raw, surely_upright = turned & as_raw & ~as_upright, turned & as_upright & ~as_raw
    is_raw = surely_raw | (turned & ~surely_upright & bool(surely_raw.sum() > surely_upright.sum()))
    frame = np.where(is_raw[:, None], raw, upright)
    resized = used & np.where(is_raw, as_raw, as_upright) & (stated != frame).any(1)
    scale = np.where(resized[:, None], frame / np.maximum(stated, 1), 1.0)

    other = used & given & ~resized & (stated != frame).any(1)
    rules: tuple[tuple[Action, str, NDArray[np.bool_]], ...] = (
        ("repaired", "image size other than the file's", other),
        ("repaired", "image resized since the dump, boxes scaled with it", resized),
        ("repaired", "boxes of a photograph's raw frame turned upright (EXIF)", is_raw),
        ("noted", "photograph with an EXIF rotation, read upright", turned & ~is_raw),
    )
    for action, what, rows in rules:
        names = (dataset.names[row] for row in np.flatnonzero(rows))
        dataset.findings.note_all(action, what, names, int(rows.sum()))

    boxes = dataset.boxes()
    factor = np.where(boxes.relative[:, None], frame[boxes.image], scale[boxes.image])
    with np.errstate(over="ignore", invalid="ignore"):
        xywh = boxes.xywh * np.tile(factor, 2)
    for value in np.unique(orientation[is_raw]):
        turning = np.flatnonzero((is_raw & (orientation == value))[boxes.image])
        xywh[turning] = turn_upright(xywh[turning], raw[boxes.image[turning]], int(value))
    return [(width, height) for width, height in sizes.tolist()], xywh


def turn_upright(xywh: NDArray[np.float64], size: NDArray[np.int64], orientation: int) -> NDArray[np.float64]:
    """Turn boxes `[n, 4]` of images as they lie in their files into the upright images (Exif 2.32, table 6).

    Args:
        xywh: in px of the file.
        size: width and height of each one's file in px `[n, 2]`.
        orientation: EXIF's, 1 to 8.
    """
    x, y, width, height = xywh.T
    to_right, to_bottom = size[:, 0] - x - width, size[:, 1] - y - height
    left_top = {
        1: (x, y), 2: (to_right, y), 3: (to_right, to_bottom), 4: (x, to_bottom),
        5: (y, x), 6: (to_bottom, x), 7: (to_bottom, to_right), 8: (y, to_right),
    }[orientation]  # fmt: skip
    sides = (height, width) if orientation >= SIDEWAYS else (width, height)
    return np.stack([*left_top, *sides], axis=1)


def _proportional(stated: NDArray[np.int64], size: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Tell which sizes `[n, 2]` are the same but for one scale, give or take the rounding to whole pixels."""
    difference = np.abs(stated[:, 0] * size[:, 1] - stated[:, 1] * size[:, 0])
    return difference <= np.maximum(stated.max(1), 1)
