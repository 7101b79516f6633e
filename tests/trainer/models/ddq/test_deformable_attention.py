"""Deformable attention against its definition, one point at a time."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from trainer.models.ddq.deformable_attention import DeformableAttention, sample


def _bilinear(level: Tensor, x: float, y: float) -> Tensor:
    """The value `[d]` of a level `[h, w, d]` at x, y in cells, whose centres lie at halves; 0 outside."""
    height, width, depth = level.shape
    x, y = x - 0.5, y - 0.5
    total = torch.zeros(depth, dtype=level.dtype)
    for column in (math.floor(x), math.floor(x) + 1):
        for row in (math.floor(y), math.floor(y) + 1):
            if 0 <= column < width and 0 <= row < height:
                total += level[row, column] * (1 - abs(x - column)) * (1 - abs(y - row))
    return total


def test_samples_are_what_a_loop_finds() -> None:
    torch.manual_seed(0)
    batch, count, heads, points, depth, shapes = 2, 3, 2, 2, 4, [(4, 6), (2, 3)]
    values = torch.randn(batch, sum(h * w for h, w in shapes), heads, depth)
    places = torch.rand(batch, count, heads, len(shapes), points, 2) * 1.6 - 0.3
    weights = torch.rand(batch, count, heads, len(shapes), points)

    expected = torch.zeros(batch, count, heads, depth)
    for b in range(batch):
        for q in range(count):
            for head in range(heads):
                start = 0
                for level, (height, width) in enumerate(shapes):
                    cells = values[b, start : start + height * width, head].reshape(height, width, depth)
                    start += height * width
                    for point in range(points):
                        x, y = places[b, q, head, level, point].tolist()
                        found = _bilinear(cells, x * width, y * height)
                        expected[b, q, head] += found * weights[b, q, head, level, point]

    torch.testing.assert_close(sample(values, shapes, places, weights), expected.flatten(2), rtol=1e-4, atol=1e-5)


def test_first_points_reach_from_the_centre_to_the_edge_of_the_box() -> None:
    attention = DeformableAttention(8, heads=4, levels=1, points=2)
    places = attention.offsets.bias.reshape(4, 1, 2, 2)
    torch.testing.assert_close(places[0, 0], torch.tensor([[0.5, 0.0], [1.0, 0.0]]), atol=1e-6, rtol=0)
    assert places.abs().amax() <= 1 + 1e-6


def test_queries_that_look_alike_at_the_same_box_find_the_same() -> None:
    torch.manual_seed(0)
    attention = DeformableAttention(8, heads=2, levels=2, points=2)
    memory = torch.randn(1, 4 * 4 + 2 * 2, 8)
    boxes = torch.tensor([[[0.4, 0.5, 0.2, 0.3], [0.4, 0.5, 0.2, 0.3], [0.8, 0.2, 0.2, 0.3]]])
    found = attention(torch.ones(1, 3, 8), boxes, memory, [(4, 4), (2, 2)])
    torch.testing.assert_close(found[0, 0], found[0, 1])
    assert not torch.allclose(found[0, 0], found[0, 2])
