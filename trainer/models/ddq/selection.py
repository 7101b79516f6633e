"""Which cells become queries: the best ones that are distinct (DDQ, Zhang et al. 2023, arXiv 2303.12776).

Neighbouring cells predict the same object. As queries they would compete for it, and one-to-one matching takes long
to teach them which one is to speak; without the duplicates there is little left to suppress behind the decoder.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from trainer.models.box_ops import iou
from trainer.models.ddq.dense_head import Dense


class Queries(NamedTuple):
    """The cells that were chosen, best first, the suppressed ones behind all others."""

    indices: Tensor
    """int64 `[B, Q]`."""
    distinct: Tensor
    """bool `[B, Q]`; False for a duplicate or a cell of the padding, which is there to fill the shape only."""


@torch.no_grad()
def suppress(boxes: Tensor, scores: Tensor, usable: Tensor, threshold: float) -> Tensor:
    """Fast NMS (YOLACT, arXiv 1904.02689, section 4): drops what overlaps with anything better, whatever its class.

    Unlike in greedy NMS, a box that is itself dropped still drops others, so no step waits for another.

    Args:
        boxes: corner boxes `[B, K, 4]`.
        scores: `[B, K]`; of two equal ones the first is the better.
        usable: bool `[B, K]`; the others are dropped, and drop none.
        threshold: IoU above which the worse of two boxes goes.

    Returns:
        bool `[B, K]`, True for what stays.
    """
    number = torch.arange(scores.shape[1], device=scores.device)
    first = number[:, None] < number
    rival, own = scores[:, :, None], scores[:, None]
    better = (rival > own) | ((rival == own) & first)
    rivals = better & usable[:, :, None] & (iou(boxes[:, :, None], boxes[:, None]) > threshold)
    return usable & ~rivals.any(1)


@torch.no_grad()
def select_queries(dense: Dense, candidates: int, count: int, threshold: float) -> Queries:
    """Takes the `count` best distinct cells among the `candidates` best ones of each image."""
    scores = dense.logits.amax(-1).masked_fill(~dense.inside, -torch.inf)
    total = scores.shape[1]
    best, order = scores.topk(min(candidates, total), dim=1)
    boxes = dense.boxes.gather(1, order[..., None].expand(-1, -1, 4))
    keep = suppress(boxes, best, best.isfinite(), threshold)
    # Both halves stay in the order of their scores. ONNX has no stable sort, so no two keys are equal.
    place = (torch.arange(keep.shape[1], device=keep.device) + candidates * ~keep).argsort(dim=1)[:, :count]
    return Queries(order.gather(1, place), keep.gather(1, place))
