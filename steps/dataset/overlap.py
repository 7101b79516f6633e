"""How much boxes overlap."""

import numpy as np
from numpy.typing import ArrayLike, NDArray


def iou(one: ArrayLike, other: ArrayLike) -> NDArray[np.float64]:
    """Give the intersection over union `[n, m]` of boxes `[n, 4]` with boxes `[m, 4]`: x, y, width, height."""
    a, b = (np.asarray(boxes, np.float64).reshape(-1, 4) for boxes in (one, other))
    start = np.maximum(a[:, None, :2], b[None, :, :2])
    end = np.minimum(a[:, None, :2] + a[:, None, 2:], b[None, :, :2] + b[None, :, 2:])
    shared = np.clip(end - start, 0, None).prod(2)
    union = a[:, 2:].prod(1)[:, None] + b[:, 2:].prod(1)[None] - shared
    return np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)
