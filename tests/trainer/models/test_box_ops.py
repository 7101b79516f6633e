from __future__ import annotations

import pytest
import torch

from trainer.models.box_ops import box_area, cxcywh_to_xyxy, generalized_iou, xyxy_to_cxcywh


def test_layouts_are_inverse():
    boxes = torch.rand(5, 2, 4)
    assert torch.allclose(xyxy_to_cxcywh(cxcywh_to_xyxy(boxes)), boxes, atol=1e-6)
    assert cxcywh_to_xyxy(torch.tensor([5.0, 6.0, 4.0, 2.0])).tolist() == [3, 5, 7, 7]


def test_area():
    assert box_area(torch.tensor([[1.0, 2.0, 4.0, 4.0]])).tolist() == [6]


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
