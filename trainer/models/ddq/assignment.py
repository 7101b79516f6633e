"""Which cells learn from which object (task-aligned assignment: TOOD, Feng et al. 2021, arXiv 2108.07755)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from trainer.models.box_ops import iou
from trainer.models.ddq.dense_head import Dense
from trainer.models.ddq.targets import Targets

# Exponents of score and IoU in the alignment. The score's is low, as at first no score means anything.
_SCORE_POWER, _IOU_POWER = 0.5, 6.0


class Assignment(NamedTuple):
    """What each cell is to say."""

    quality: Tensor
    """`[B, N]` in [0, 1], the score to give; 0 for background."""
    weight: Tensor
    """`[B, N]` in [0, 1], how much its box counts: 1 for the best cell of each object, 0 for background."""
    object: Tensor
    """int64 `[B, N]`, place of the object among the image's; 0 for background."""


@torch.no_grad()
def assign(dense: Dense, targets: Targets, count: int) -> Assignment:
    """Gives each object the `count` cells that already find it best, and each cell at most one object.

    A cell can be given the objects that its centre lies in, or less than its stride from whose centre it lies, so that
    none is too small for all cells. The best cell of an object is to score what its best box overlaps with it, its
    other cells less, in proportion to their alignment.

    Args:
        dense: what the first stage says.
        targets: with at least one object in the batch (T > 0).
        count: cells for each object.
    """
    centres, strides = dense.cells
    low, high = targets.boxes[:, :, None].split(2, dim=-1)
    within = ((centres > low) & (centres < high)).all(-1)
    close = (((low + high) / 2 - centres).abs() < strides[:, None]).all(-1)
    candidates = (within | close) & targets.present[..., None] & dense.inside[:, None]

    labels = targets.labels[:, None].expand(-1, dense.logits.shape[1], -1)
    scores = dense.logits.sigmoid().gather(2, labels).transpose(1, 2)
    overlaps = iou(targets.boxes[:, :, None], dense.boxes[:, None])
    alignment = scores**_SCORE_POWER * overlaps**_IOU_POWER * candidates

    best = alignment.topk(min(count, alignment.shape[2]), dim=2)
    chosen = torch.zeros_like(candidates).scatter(2, best.indices, best.values > 0)
    alignment = alignment * chosen
    most, owner = alignment.max(1)
    chosen &= functional.one_hot(owner, alignment.shape[1]).transpose(1, 2).bool()
    top_alignment = (alignment * chosen).amax(2, keepdim=True)
    top_overlap = (overlaps * chosen).amax(2, keepdim=True)
    weight = alignment * chosen / top_alignment.clamp(min=torch.finfo(alignment.dtype).tiny)
    return Assignment((weight * top_overlap).amax(1), weight.amax(1), owner * (most > 0))
