"""Overlap of boxes for the matcher and the loss; conversions and areas are torchvision's."""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.ops import box_area


def iou(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union of corner boxes `[..., 4]` element by element, with broadcasting; 0 without area."""
    overlap = (torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])).clamp(min=0)
    intersection = overlap[..., 0] * overlap[..., 1]
    union = box_area(a) + box_area(b) - intersection
    return intersection / union.clamp(min=torch.finfo(union.dtype).tiny)


def generalized_iou(a: Tensor, b: Tensor) -> Tensor:
    """Generalised IoU of boxes element by element, with broadcasting.

    torchvision's `generalized_box_iou` is for pairs of two flat lists, where the matcher needs all layers and images at
    once, and gives NaN for two boxes without area.

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
