"""The first stage: every cell of the pyramid says which object it lies on, and how far away its sides are.

It learns from many cells for each object, which is what makes the detector learn from few images.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from trainer.models.ddq.neck import ConvBlock

# Before training a cell expects a box of four strides, a fair size for the objects of its level.
_FIRST_SIDE = 4.0
_PRIOR = 0.01
"""Probability of each class before training: most cells are background."""
_MOST_LOG_DISTANCE = 6.0


class Cells(NamedTuple):
    """Where the N cells of a pyramid lie, finest level first."""

    centres: Tensor
    """`[N, 2]`, x and y in px of the padded images."""
    strides: Tensor
    """`[N]`, px."""


class Dense(NamedTuple):
    """What the first stage says about every cell."""

    logits: Tensor
    """float32 `[B, N, C]`."""
    boxes: Tensor
    """float32 `[B, N, 4]`, x0, y0, x1, y1 in px of the padded images."""
    features: Tensor
    """`[B, N, dim]`, what the predictions were made from."""
    cells: Cells
    inside: Tensor
    """bool `[B, N]`, whether a cell's centre lies on the image and not on its padding."""


def cells_of(shapes: Sequence[tuple[int, int]], strides: Sequence[int], like: Tensor) -> Cells:
    """The cells of levels of `shapes` (height, width) and `strides`, on the device of `like`."""
    centres, sizes = [], []
    for (height, width), stride in zip(shapes, strides, strict=True):
        y = (torch.arange(height, device=like.device, dtype=torch.float32) + 0.5) * stride
        x = (torch.arange(width, device=like.device, dtype=torch.float32) + 0.5) * stride
        centres.append(torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1).flatten(0, 1))
        sizes.append(torch.full((height * width,), float(stride), device=like.device))
    return Cells(torch.cat(centres), torch.cat(sizes))


def flatten_levels(levels: Sequence[Tensor]) -> Tensor:
    """Levels `[B, c, h_l, w_l]` as cells `[B, N, c]`."""
    return torch.cat([level.flatten(2).transpose(1, 2) for level in levels], dim=1)


class DenseHead(nn.Module):
    """Class scores and a box for every cell, with the same weights on all levels."""

    def __init__(self, dim: int, num_classes: int, strides: Sequence[int]) -> None:
        super().__init__()
        self.strides = tuple(strides)
        self.class_tower = ConvBlock(dim, dim, 3)
        self.box_tower = ConvBlock(dim, dim, 3)
        self.class_embed = _predictor(dim, num_classes, -math.log((1 - _PRIOR) / _PRIOR))
        self.box_embed = _predictor(dim, 4, math.log(_FIRST_SIDE / 2))

    def forward(self, levels: Sequence[Tensor], sizes: Tensor) -> Dense:
        """Predicts on every cell.

        Args:
            levels: `[B, dim, h_l, w_l]`, finest first.
            sizes: `[B, 2]`, width and height in px of each image without its padding.
        """
        classes = [self.class_tower(level) for level in levels]
        sides = [self.box_tower(level) for level in levels]
        logits = flatten_levels([self.class_embed(level) for level in classes]).float()
        distances = flatten_levels([self.box_embed(level) for level in sides]).float()
        cells = cells_of([(level.shape[2], level.shape[3]) for level in levels], self.strides, logits)
        reach = distances.clamp(max=_MOST_LOG_DISTANCE).exp() * cells.strides[:, None]
        boxes = torch.cat([cells.centres - reach[..., :2], cells.centres + reach[..., 2:]], dim=-1)
        inside = (cells.centres < sizes[:, None]).all(-1)
        return Dense(logits, boxes, flatten_levels(classes) + flatten_levels(sides), cells, inside)


def _predictor(dim: int, outputs: int, start: float) -> nn.Conv2d:
    """A layer that says about `start` everywhere before training."""
    layer = nn.Conv2d(dim, outputs, 1)
    nn.init.normal_(layer.weight, std=0.01)
    layer.bias = nn.Parameter(torch.full((outputs,), start))
    return layer
