from __future__ import annotations

import pytest
import torch

from trainer.models.detr.transformer import Transformer


def build(pre_norm: bool) -> Transformer:
    torch.manual_seed(0)
    return Transformer(16, 2, 2, 3, 32, 0.0, pre_norm).eval()


@pytest.mark.parametrize("pre_norm", [False, True])
def test_shape_and_final_norms(pre_norm):
    transformer = build(pre_norm)
    objects = transformer(
        torch.randn(2, 16, 3, 4), torch.zeros(2, 3, 4, dtype=torch.bool), torch.randn(5, 16), torch.randn(2, 16, 3, 4)
    )
    assert objects.shape == (3, 2, 5, 16)
    assert ("encoder.norm.weight" in transformer.state_dict()) == pre_norm
    assert "decoder.norm.weight" in transformer.state_dict()


@pytest.mark.parametrize("pre_norm", [False, True])
def test_padded_cells_do_not_change_the_objects(pre_norm):
    transformer = build(pre_norm)
    features, position, queries = torch.randn(1, 16, 3, 4), torch.randn(1, 16, 3, 4), torch.randn(5, 16)
    alone = transformer(features, torch.zeros(1, 3, 4, dtype=torch.bool), queries, position)
    for fill in (0.0, 100.0):
        wide, wide_position = torch.full((1, 16, 5, 6), fill), torch.full((1, 16, 5, 6), fill)
        wide[:, :, :3, :4], wide_position[:, :, :3, :4] = features, position
        mask = torch.ones(1, 5, 6, dtype=torch.bool)
        mask[:, :3, :4] = False
        assert torch.allclose(transformer(wide, mask, queries, wide_position), alone, atol=1e-5)


def test_layers_start_from_different_weights():
    first, second = build(False).encoder.layers
    assert not torch.equal(first.linear1.weight, second.linear1.weight)
