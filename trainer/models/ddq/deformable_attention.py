"""Multi-scale deformable attention (Deformable DETR, Zhu et al. 2020, arXiv 2010.04159) in plain PyTorch."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

Shape = tuple[int, int]
"""Height and width in cells."""


class DeformableAttention(nn.Module):
    """Each query looks at a few points in and around its box, on every level of the pyramid."""

    def __init__(self, dim: int, heads: int, levels: int, points: int) -> None:
        """Takes the channels, and how many heads, levels, and points for each head and level there are."""
        super().__init__()
        if dim % heads:
            raise ValueError(f"{dim} channels cannot be shared out among {heads} heads")
        self.heads, self.levels, self.points = heads, levels, points
        self.offsets = nn.Linear(dim, heads * levels * points * 2)
        self.weights = nn.Linear(dim, heads * levels * points)
        self.value = nn.Linear(dim, dim)
        self.output = nn.Linear(dim, dim)
        self._reset_parameters()

    def _reset_parameters(self) -> None:
        """At first head h looks in direction h, its points spread evenly from the centre to the box's edge."""
        angles = torch.arange(self.heads) * (2 * math.pi / self.heads)
        directions = torch.stack([angles.cos(), angles.sin()], dim=-1)
        directions = directions / directions.abs().amax(-1, keepdim=True)
        steps = torch.arange(1, self.points + 1) / self.points
        spread = directions[:, None, None] * steps[None, None, :, None]
        nn.init.zeros_(self.offsets.weight)
        with torch.no_grad():
            self.offsets.bias.copy_(spread.expand(-1, self.levels, -1, -1).flatten())
        nn.init.zeros_(self.weights.weight)
        nn.init.zeros_(self.weights.bias)
        for layer in (self.value, self.output):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, queries: Tensor, boxes: Tensor, memory: Tensor, shapes: Sequence[Shape]) -> Tensor:
        """Samples features where the queries look.

        Args:
            queries: `[B, Q, dim]`.
            boxes: `[B, Q, 4]`, cx, cy, w, h in fractions of the padded images.
            memory: `[B, N, dim]`, the cells of all levels, finest first.
            shapes: of the levels.

        Returns:
            `[B, Q, dim]`.
        """
        batch, count, dim = queries.shape
        values = self.value(memory).reshape(batch, -1, self.heads, dim // self.heads)
        offsets = self.offsets(queries).reshape(batch, count, self.heads, self.levels, self.points, 2)
        weights = self.weights(queries).reshape(batch, count, self.heads, -1).softmax(-1)
        # An offset of 1 is half the box's size: its edge.
        boxes = boxes[:, :, None, None, None]
        places = boxes[..., :2] + offsets.float() * boxes[..., 2:] / 2
        sampled = sample(values, shapes, places, weights.reshape(*weights.shape[:3], self.levels, self.points))
        return self.output(sampled.to(queries.dtype))


def sample(values: Tensor, shapes: Sequence[Shape], places: Tensor, weights: Tensor) -> Tensor:
    """Weighted sums of bilinear samples, in float32; outside the features there are zeros.

    Args:
        values: `[B, N, heads, d]`, the cells of all L levels.
        shapes: of the levels.
        places: `[B, Q, heads, L, P, 2]`, x and y in fractions of the levels' width and height.
        weights: `[B, Q, heads, L, P]`.

    Returns:
        `[B, Q, heads * d]`.
    """
    batch, _, heads, depth = values.shape
    count = places.shape[1]
    # Three digits, which is what bfloat16 has, do not tell neighbouring cells apart.
    grid = (2 * places.float() - 1).permute(0, 2, 3, 1, 4, 5).flatten(0, 1)
    shares = weights.float().permute(0, 2, 3, 1, 4).flatten(0, 1)[:, :, None]
    total: Tensor | None = None
    levels = values.float().split([height * width for height, width in shapes], dim=1)
    for index, (level, (height, width)) in enumerate(zip(levels, shapes, strict=True)):
        image = level.permute(0, 2, 3, 1).reshape(batch * heads, depth, height, width)
        samples = functional.grid_sample(image, grid[:, index], padding_mode="zeros", align_corners=False)
        part = (samples * shares[:, index]).sum(-1)
        total = part if total is None else total + part
    assert total is not None, "a pyramid has at least one level"
    return total.reshape(batch, heads * depth, count).transpose(1, 2)
