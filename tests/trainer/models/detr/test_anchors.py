from __future__ import annotations

import torch
from torch import nn

from tests.trainer.building import build_model, random_images
from trainer.models.detr.anchors import look_nearby, position_codes, spread_boxes
from trainer.models.detr.position_encoding import SinePositionEncoding


def test_boxes_are_spread_evenly_and_more_of_them_only_add_to_fewer():
    boxes = spread_boxes(64)
    assert boxes.shape == (64, 4)
    quarters = (boxes[:, 0] > 0.5).long() * 2 + (boxes[:, 1] > 0.5).long()
    assert quarters.bincount().min() >= 12
    assert ((boxes[:, :2] > 0) & (boxes[:, :2] < 1)).all()
    assert torch.equal(spread_boxes(20), boxes[:20])


def test_the_code_of_a_centre_is_most_like_that_of_the_cell_it_lies_in():
    encoding = SinePositionEncoding(64)
    cells = encoding(torch.zeros(1, 12, 16, dtype=torch.bool))[0].flatten(1).T
    centres = torch.tensor([[0.03, 0.04], [0.97, 0.96], [0.66, 0.29]])
    nearest = torch.cdist(position_codes(encoding, centres), cells).argmin(1)
    assert [(int(cell) // 16, int(cell) % 16) for cell in nearest] == [(0, 0), (11, 15), (3, 10)]


def test_attention_to_like_positions_starts_high():
    torch.manual_seed(0)
    attention = nn.MultiheadAttention(64, 4, batch_first=True)
    look_nearby(attention.in_proj_weight)
    places = torch.randn(1, 30, 64)
    _, weights = attention(places, places, places)
    assert torch.equal(weights[0].argmax(1), torch.arange(30))


def test_an_untrained_query_predicts_its_own_place():
    model = build_model("detr_lite0", 2, num_queries=30, aux_loss=True).eval()
    with torch.no_grad():
        outputs = model(random_images(2, 3, 64, 96), torch.zeros(2, 64, 96, dtype=torch.bool))
    for layer in (outputs, *outputs["aux_outputs"]):
        assert torch.allclose(layer["pred_boxes"], spread_boxes(30).expand(2, -1, -1), atol=1e-6)


def test_places_are_learned_with_the_rest():
    model = build_model("detr_lite0", 2, num_queries=30)
    outputs = model(random_images(1, 3, 64, 96), torch.zeros(1, 64, 96, dtype=torch.bool))
    outputs["pred_boxes"].sum().backward()
    assert model.query_anchor.weight.grad.abs().min() > 0
