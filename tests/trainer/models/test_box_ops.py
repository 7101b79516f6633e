from __future__ import annotations

import pytest
import torch

from trainer.models.box_ops import generalized_iou


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ([0, 0, 2, 2], [0, 0, 2, 2], 1.0),
        ([0, 0, 2, 2], [1, 1, 3, 3], 1 / 7 - 2 / 9),
        ([0, 0, 1, 1], [2, 0, 3, 1], 0 - 1 / 3),
        ([0, 0, 4, 4], [1, 1, 2, 2], 1 / 16),
        ([1, 1, 1, 1], [1, 1, 1, 1], 0.0),
    ],
)
def test_generalized_iou_by_hand(a, b, expected):
    a, b = torch.tensor(a, dtype=torch.float64), torch.tensor(b, dtype=torch.float64)
    assert generalized_iou(a, b).item() == pytest.approx(expected)
    assert generalized_iou(b, a).item() == pytest.approx(expected)


def test_generalized_iou_of_empty_boxes_has_a_finite_gradient():
    a = torch.tensor([0.5, 0.5, 0.5, 0.5], requires_grad=True)
    generalized_iou(a, torch.tensor([0.5, 0.5, 0.5, 0.5])).backward()
    assert torch.isfinite(a.grad).all()


def test_generalized_iou_broadcasts_to_pairs():
    low = torch.rand(3, 2)
    a = torch.cat([low, low + torch.rand(3, 2)], 1)
    pairs = generalized_iou(a[:, None], a[None])
    assert pairs.shape == (3, 3)
    assert torch.allclose(pairs.diagonal(), torch.ones(3))
