"""What a dataset is, as a number: the same images, boxes and classes in the same order give the same one.

Needs no torch: whoever writes a dataset can put the number beside it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

_BLOCK = 1024 * 1024


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal.

    Raises:
        OSError: it cannot be read.
    """
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def split_digest(
    classes: Iterable[tuple[int, str]],
    images: Iterable[tuple[str, int, int]],
    image: ArrayLike,
    category: ArrayLike,
    xywh: ArrayLike,
    area: ArrayLike,
    crowd: ArrayLike,
) -> str:
    """SHA-256 of what a COCO file says, wherever its images lie, in hexadecimal.

    Args:
        classes: id and name of each, by ascending id.
        images: for each, what tells its content from another's, and its width and height in px.
        image: the place among `images` of each box, `[n]`.
        category: the class's id of each box, `[n]`.
        xywh: corner and size of each box in px, `[n, 4]`.
        area: in px², by which metrics tell small from large, `[n]`.
        crowd: 1 for a crowd region, `[n]`.
    """
    import numpy as np  # A tenth of a second, which most of those who come for the sum of a file do without.

    digest = hashlib.sha256()
    for rows in (classes, images):
        digest.update(json.dumps(list(rows)).encode() + b"\n")
    for column, kind in ((image, "<i8"), (category, "<i8"), (xywh, "<f8"), (area, "<f8"), (crowd, "u1")):
        digest.update(np.asarray(column, dtype=kind).tobytes())
    return digest.hexdigest()


def dataset_digest(train: str, val: str) -> str:
    """The number of a dataset from those of what trains and what validates."""
    return hashlib.sha256(f"{train} {val}\n".encode()).hexdigest()
