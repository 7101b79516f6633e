"""One query for each object: the cheapest assignment, for all images and decoder layers at once."""

from __future__ import annotations

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torchvision.ops import box_convert

from trainer.models.box_ops import generalized_iou
from trainer.models.ddq.targets import Targets

_NEVER = 1e6


@torch.no_grad()
def match(
    logits: Tensor,
    boxes: Tensor,
    usable: Tensor,
    targets: Targets,
    counts: list[int],
    sizes: Tensor,
    weights: tuple[float, float, float],
) -> Tensor:
    """Matches queries and objects with a single copy from the device.

    Args:
        logits: `[L, B, Q, C]`, of L layers.
        boxes: `[L, B, Q, 4]`, cx, cy, w, h in px.
        usable: bool `[L, B, Q]`, the queries that may be matched.
        targets: with T > 0.
        counts: how many objects each image has.
        sizes: `[B, 2]`, width and height in px, in whose fractions distances are measured.
        weights: of class score, distance and generalised IoU.

    Returns:
        int64 `[L, B, Q]` on the device of `logits`: the place of a query's object, -1 where it has none.
    """
    labels = targets.labels[None, :, None].expand(len(logits), -1, logits.shape[2], -1)
    score = logits.sigmoid().gather(-1, labels)
    corners = box_convert(boxes, "cxcywh", "xyxy")[:, :, :, None]
    truth = targets.boxes[None, :, None]
    distance = box_distance(corners, truth, sizes[None, :, None, None])
    of_class, of_distance, of_overlap = weights
    cost = of_distance * distance - of_class * score - of_overlap * generalized_iou(corners, truth)
    cost = cost.masked_fill(~usable[..., None], _NEVER)
    # A model that has diverged is told by its loss; the assignment only must not choke on it first.
    table = torch.nan_to_num(cost, nan=_NEVER, posinf=_NEVER, neginf=-_NEVER).cpu()
    found = torch.full(logits.shape[:3], -1, dtype=torch.int64)
    for layer_table, layer_found in zip(table.numpy(), found, strict=True):
        for image_table, image_found, count in zip(layer_table, layer_found, counts, strict=True):
            queries, objects = linear_sum_assignment(image_table[:, :count])
            image_found[torch.from_numpy(queries)] = torch.from_numpy(objects)
    found = found.to(logits.device, non_blocking=True)
    # With more objects than usable queries, the assignment has to take some of the others.
    return found.masked_fill(~usable, -1)


def box_distance(a: Tensor, b: Tensor, sizes: Tensor) -> Tensor:
    """L1 distance of corner boxes `[..., 4]` as centres and sizes in fractions of `sizes` `[..., 2]` (w, h)."""
    centre = (a[..., :2] + a[..., 2:] - b[..., :2] - b[..., 2:]) / 2
    side = (a[..., 2:] - a[..., :2]) - (b[..., 2:] - b[..., :2])
    return ((centre.abs() + side.abs()) / sizes).sum(-1)
