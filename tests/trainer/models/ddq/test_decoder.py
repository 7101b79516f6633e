"""Queries of one group see each other, and no others."""

from __future__ import annotations

import torch
from torch import Tensor

from trainer.models.ddq.decoder import Among, DecoderLayer, Layer

SHAPES = [(4, 6), (2, 3), (1, 2)]
AMONG = [Among(1, 5), Among(3, 4)]
SIZE = torch.tensor([48.0, 32.0, 48.0, 32.0])


def test_a_group_says_what_it_would_say_alone() -> None:
    torch.manual_seed(0)
    layer = DecoderLayer(32, 2, 4, len(SHAPES), 2, 64)
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    total = sum(groups * size for groups, size in AMONG)
    queries, logits = torch.randn(2, total, 32), torch.randn(2, total, 2)
    boxes = torch.rand(2, total, 4) * SIZE / 2 + 4
    memory = torch.randn(2, sum(height * width for height, width in SHAPES), 32)
    visible = torch.rand(2, total) > 0.3

    def say(rows: slice, among: list[Among]) -> tuple[Tensor, Layer]:
        before = Layer(logits[:, rows], boxes[:, rows])
        return layer(queries[:, rows], before, memory, SHAPES, SIZE, visible[:, rows], among)

    state, said = say(slice(0, total), AMONG)
    start = 0
    for size in (5, 4, 4, 4):
        rows = slice(start, start + size)
        alone, said_alone = say(rows, [Among(1, size)])
        torch.testing.assert_close(state[:, rows], alone)
        torch.testing.assert_close(said.logits[:, rows], said_alone.logits)
        torch.testing.assert_close(said.boxes[:, rows], said_alone.boxes)
        start += size


def test_what_is_not_visible_changes_nobody_but_itself() -> None:
    torch.manual_seed(1)
    layer = DecoderLayer(32, 2, 4, len(SHAPES), 2, 64)
    queries, logits, boxes = torch.randn(1, 5, 32), torch.randn(1, 5, 2), torch.rand(1, 5, 4) * SIZE / 2 + 4
    memory = torch.randn(1, sum(height * width for height, width in SHAPES), 32)
    visible = torch.tensor([[True, True, False, True, True]])
    before, _ = layer(queries, Layer(logits, boxes), memory, SHAPES, SIZE, visible, [Among(1, 5)])
    queries[:, 2] += 1
    after, _ = layer(queries, Layer(logits, boxes), memory, SHAPES, SIZE, visible, [Among(1, 5)])
    others = [0, 1, 3, 4]
    torch.testing.assert_close(before[:, others], after[:, others])
    assert not torch.allclose(before[:, 2], after[:, 2])
