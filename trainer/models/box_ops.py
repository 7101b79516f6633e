"""Boxes as tensors: the two layouts and the overlaps that the matcher and the loss need."""

from __future__ import annotations

import torch
from torch import Tensor


def cxcywh_to_xyxy(boxes: Tensor) -> Tensor:
    """Centre and size to corners: `[..., 4]` (cx, cy, w, h) to `[..., 4]` (x0, y0, x1, y1), any unit."""
    centre, half = boxes[..., :2], boxes[..., 2:] / 2
    return torch.cat([centre - half, centre + half], dim=-1)


def xyxy_to_cxcywh(boxes: Tensor) -> Tensor:
    """Corners to centre and size: `[..., 4]` (x0, y0, x1, y1) to `[..., 4]` (cx, cy, w, h), any unit."""
    low, high = boxes[..., :2], boxes[..., 2:]
    return torch.cat([(low + high) / 2, high - low], dim=-1)


def box_area(boxes: Tensor) -> Tensor:
    """Areas `[...]` of corner boxes `[..., 4]`, in their unit squared."""
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


def generalized_iou(a: Tensor, b: Tensor) -> Tensor:
    """Generalised IoU of boxes element by element, with broadcasting.

    Args:
        a: corner boxes `[..., 4]`.
        b: corner boxes whose leading dimensions broadcast with those of `a`; pairwise values for `[n, 4]`
            and `[m, 4]` are `generalized_iou(a[:, None], b[None])`.

    Returns:
        Values in [-1, 1] over the broadcast leading dimensions (Rezatofighi et al. 2019; appendix A.2 of
        the DETR paper). Two boxes without area give 0, never NaN: their gradient would poison a whole batch.
    """
    tiny = torch.finfo(a.dtype).tiny
    overlap = (torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])).clamp(min=0)
    hull = torch.maximum(a[..., 2:], b[..., 2:]) - torch.minimum(a[..., :2], b[..., :2])
    intersection = overlap[..., 0] * overlap[..., 1]
    union = box_area(a) + box_area(b) - intersection
    hull_area = hull[..., 0] * hull[..., 1]
    return intersection / union.clamp(min=tiny) - (hull_area - union) / hull_area.clamp(min=tiny)
