"""Queries made from noisy ground truth, which tell the decoder what to do before matching is of any use.

Contrastive denoising (DINO, Zhang et al. 2022, arXiv 2203.03605, section 3.3): of two noisy copies of an object the
nearer one is to find it, the farther one is to stay silent. As real queries do, they start from the features and
scores of the cell that they lie on.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from trainer.models.ddq.dense_head import Cells
from trainer.models.ddq.targets import Targets

_NEAR, _FAR = 0.4, 1.0
"""Largest share of half a side by which an edge of the near and of the far copy is moved; the far is moved by more
than `_NEAR`."""
_SIDE_IN_STRIDES = 6.0
"""Side, in strides, of the objects that a level of the pyramid is asked about."""


class Denoising(NamedTuple):
    """R extra queries: `groups` times the near and then the far copy of M objects."""

    boxes: Tensor
    """`[B, R, 4]`, cx, cy, w, h in px of the padded images."""
    cells: Tensor
    """int64 `[B, R]`, the cell that each query takes its features from."""
    object: Tensor
    """int64 `[B, R]`, place of the object among the image's."""
    near: Tensor
    """bool `[B, R]`, True for the copy that is to find its object."""
    present: Tensor
    """bool `[B, R]`, False where an image has fewer than M objects."""
    groups: int


def make_denoising(targets: Targets, cells: Cells, most: int) -> Denoising | None:
    """Draws noisy copies from torch's global random numbers.

    Args:
        targets: of the batch.
        cells: of the pyramid.
        most: how many queries there may be; objects beyond half of it are left out, at random.

    Returns:
        None where there is no object or there are to be no queries.
    """
    objects = min(targets.labels.shape[1], most // 2)
    if objects == 0:
        return None
    groups = max(1, most // (2 * objects))
    chance = torch.rand(targets.labels.shape, device=targets.boxes.device).masked_fill(~targets.present, 2)
    chosen = chance.argsort(1)[:, :objects].repeat(1, 2 * groups)
    near = torch.arange(chosen.shape[1], device=chosen.device) // objects % 2 == 0
    corners = targets.boxes.gather(1, chosen[..., None].expand(-1, -1, 4))
    half = (corners[..., 2:] - corners[..., :2]).repeat(1, 1, 2) / 2
    share = torch.rand_like(corners)
    share = torch.where(near[:, None], share * _NEAR, _NEAR + share * (_FAR - _NEAR))
    sign = torch.randint_like(corners, 2) * 2 - 1
    corners = corners + sign * share * half
    # Edges that crossed change places; a px is left between them.
    low = torch.minimum(corners[..., :2], corners[..., 2:])
    high = torch.maximum(torch.maximum(corners[..., :2], corners[..., 2:]), low + 1)
    boxes = torch.cat([(low + high) / 2, high - low], dim=-1)
    present = targets.present.gather(1, chosen)
    return Denoising(boxes, nearest_cells(boxes, cells), chosen, near.expand_as(present), present, groups)


def nearest_cells(boxes: Tensor, cells: Cells) -> Tensor:
    """The cell at each box's centre, on the level that objects of its size belong to: int64 `[B, R]`."""
    side = boxes[..., 2:].prod(-1).sqrt()
    misfit = (side[..., None] / (cells.strides * _SIDE_IN_STRIDES)).log2().abs()
    distance = (boxes[:, :, None, :2] - cells.centres).abs().amax(-1) / cells.strides
    # Half a level of misfit counts as much as being one cell off, so no cell far away is ever the nearest.
    return (distance + 2 * misfit).argmin(-1)
