"""The assignment of cells and the suppression of duplicates, against loops; the matching's special cases."""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.ops import box_convert

from tests.trainer.models.ddq.conftest import target
from trainer.models.box_ops import iou
from trainer.models.ddq.assignment import assign
from trainer.models.ddq.dense_head import Dense, cells_of
from trainer.models.ddq.matcher import match
from trainer.models.ddq.selection import select_queries, suppress
from trainer.models.ddq.targets import Targets, pad_targets

COUNT = 4


def _dense(classes: int = 2) -> Dense:
    """Random predictions for two images of 64 x 48 px, the second of which is 40 px wide."""
    torch.manual_seed(1)
    cells = cells_of([(6, 8), (3, 4)], (8, 16), torch.zeros(1))
    total = len(cells.strides)
    reach = (torch.rand(2, total, 4) + 0.5) * cells.strides[:, None]
    boxes = torch.cat([cells.centres - reach[..., :2], cells.centres + reach[..., 2:]], dim=-1)
    inside = cells.centres < torch.tensor([[64.0, 48.0], [40.0, 48.0]])[:, None]
    return Dense(torch.randn(2, total, classes), boxes, torch.zeros(2, total, 1), cells, inside.all(-1))


def _targets() -> Targets:
    rows = [
        target((0, 0.3, 0.4, 0.3, 0.5), (1, 0.4, 0.5, 0.4, 0.4), (1, 0.81, 0.8, 0.03, 0.03)),
        target((0, 0.5, 0.5, 0.9, 0.9)),
    ]
    return pad_targets(rows, torch.tensor([[64.0, 48.0], [40.0, 48.0]]))


def _loop(dense: Dense, targets: Targets) -> tuple[Tensor, Tensor]:
    """Quality `[B, N]` and object `[B, N]`, -1 for background."""
    quality = torch.zeros(dense.inside.shape)
    owner = torch.full(dense.inside.shape, -1)
    for image in range(len(quality)):
        chosen: dict[int, list[tuple[float, int, float]]] = {}
        for number in range(int(targets.present[image].sum())):
            box, label = targets.boxes[image, number], int(targets.labels[image, number])
            ranked = []
            for cell, (centre, stride) in enumerate(zip(dense.cells.centres, dense.cells.strides, strict=True)):
                within = bool(((centre > box[:2]) & (centre < box[2:])).all())
                close = bool((((box[:2] + box[2:]) / 2 - centre).abs() < stride).all())
                if dense.inside[image, cell] and (within or close):
                    overlap = float(iou(dense.boxes[image, cell], box))
                    score = float(dense.logits[image, cell, label].sigmoid())
                    ranked.append((score**0.5 * overlap**6, cell, overlap))
            for alignment, cell, overlap in sorted(ranked, reverse=True)[:COUNT]:
                chosen.setdefault(cell, []).append((alignment, number, overlap))
        won: dict[int, list[tuple[float, int, float]]] = {}
        for cell, rivals in chosen.items():
            alignment, number, overlap = max(rivals)
            owner[image, cell] = number
            won.setdefault(number, []).append((alignment, cell, overlap))
        for of_object in won.values():
            most, best = max(row[0] for row in of_object), max(row[2] for row in of_object)
            for alignment, cell, _ in of_object:
                quality[image, cell] = alignment / most * best
    return quality, owner


def test_assignment_is_what_a_loop_finds() -> None:
    dense, targets = _dense(), _targets()
    quality, owner = _loop(dense, targets)
    given = assign(dense, targets, COUNT)
    torch.testing.assert_close(given.quality, quality, rtol=1e-3, atol=1e-6)
    positive = given.weight > 0
    assert torch.equal(positive, owner >= 0)
    assert torch.equal(given.object[positive], owner[positive])
    # The third object is smaller than a cell and has cells all the same.
    assert (owner == 2).any()


def test_suppression_is_what_a_loop_finds() -> None:
    torch.manual_seed(2)
    corners = torch.rand(3, 40, 2) * 30
    boxes = torch.cat([corners, corners + 5 + torch.rand(3, 40, 2) * 25], dim=-1)
    # Of equal scores the first is the better.
    scores = (torch.rand(3, 40) * 10).round()
    usable = torch.rand(3, 40) < 0.8
    expected = torch.zeros(3, 40, dtype=torch.bool)
    for image in range(3):
        ranks = {index: (-float(scores[image, index]), index) for index in range(40) if usable[image, index]}
        for index, rank in ranks.items():
            rivals = [other for other in ranks if ranks[other] < rank]
            expected[image, index] = all(float(iou(boxes[image, index], boxes[image, i])) <= 0.3 for i in rivals)
    found = suppress(boxes, scores, usable, 0.3)
    assert torch.equal(found, expected)
    assert (found < usable).any()


def test_queries_are_distinct_and_best_first_and_fillers_come_last() -> None:
    dense = _dense()
    queries = select_queries(dense, candidates=40, count=30, threshold=0.3)
    scores = dense.logits.amax(-1).gather(1, queries.indices)
    for image in range(2):
        distinct = queries.distinct[image]
        number = int(distinct.sum())
        assert 1 < number < 30
        assert distinct[:number].all()
        assert scores[image, :number].diff().max() <= 0
        chosen = queries.indices[image, :number]
        assert dense.inside[image, chosen].all()
        boxes = dense.boxes[image, chosen]
        assert float(iou(boxes[:, None], boxes[None]).triu(1).max()) <= 0.3


def test_each_object_is_matched_once_and_fillers_never() -> None:
    dense, targets = _dense(), _targets()
    usable = torch.ones(dense.inside.shape, dtype=torch.bool)
    usable[0, 2:] = False
    boxes = box_convert(dense.boxes, "xyxy", "cxcywh")
    sizes = torch.tensor([[64.0, 48.0], [40.0, 48.0]])
    found = match(dense.logits[None], boxes[None], usable[None], targets, [3, 1], sizes, (2.0, 5.0, 2.0))
    assert sorted(found[0, 1][found[0, 1] >= 0].tolist()) == [0]
    # Two usable queries for three objects: each takes one.
    assert (found[0, 0] >= 0).tolist() == usable[0].tolist()
    assert len(set(found[0, 0, :2].tolist())) == 2
