from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from trainer.models.detr.attention import MultiheadAttention, padding_bias

DIM, HEADS = 16, 4
# So small that nothing is dropped, which takes the way of training with dropout and keeps its result comparable.
NEXT_TO_NOTHING = 1e-9


def pair(dropout: float) -> tuple[MultiheadAttention, nn.MultiheadAttention]:
    """Ours and torch's with the same weights, in training mode."""
    torch.manual_seed(0)
    ours, plain = MultiheadAttention(DIM, HEADS, dropout), nn.MultiheadAttention(DIM, HEADS, batch_first=True)
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    plain.load_state_dict(ours.state_dict(), strict=True)
    return ours, plain


def inputs(kind: str) -> list[Tensor]:
    torch.manual_seed(1)
    memory, objects = torch.randn(3, 7, DIM), torch.randn(3, 5, DIM)
    if kind == "self":
        query = memory + torch.randn(3, 7, DIM)
        return [query, query, memory]
    return [objects, memory + torch.randn(3, 7, DIM), memory]


@pytest.mark.parametrize("dropout", [0.0, NEXT_TO_NOTHING], ids=["fused", "with dropout"])
@pytest.mark.parametrize("kind", ["self", "cross"])
@pytest.mark.parametrize("padded", [[0, 0, 0], [0, 3, 6]], ids=["nothing padded", "padded"])
def test_equals_torch_in_values_and_gradients(dropout, kind, padded):
    ours, plain = pair(dropout)
    padding = torch.arange(7)[None] >= 7 - torch.tensor(padded)[:, None]
    results = []
    for module in (ours, plain):
        query, key, value = inputs(kind)
        leaves = [query.requires_grad_(), value.requires_grad_()]
        if kind == "cross":
            leaves.append(key.requires_grad_())
        if module is ours:
            out = module(query, key, value, padding_bias(padding, query.dtype))
        else:
            out = module(query, key, value, key_padding_mask=padding, need_weights=False)[0]
        (out * torch.linspace(-1, 1, out.numel()).view_as(out)).sum().backward()
        results.append([out, *(leaf.grad for leaf in leaves), *(p.grad for p in module.parameters())])
    for mine, torchs in zip(*results, strict=True):
        assert torch.allclose(mine, torchs, atol=1e-5)


def test_names_and_shapes_are_torchs():
    ours, plain = pair(0.1)
    assert {name: w.shape for name, w in ours.state_dict().items()} == {
        name: w.shape for name, w in plain.state_dict().items()
    }


def test_dropout_acts_on_the_weights_in_training_only():
    ours, _ = pair(0.5)
    arguments = inputs("cross")
    assert not torch.allclose(ours(*arguments), ours(*arguments))
    ours.eval()
    assert torch.equal(ours(*arguments), ours(*arguments))


def test_the_mean_over_dropout_is_what_is_computed_without():
    ours, _ = pair(0.2)
    arguments = inputs("cross")
    with torch.no_grad():
        mean = torch.stack([ours(*arguments) for _ in range(3000)]).mean(0)
        assert torch.allclose(mean, ours.eval()(*arguments), atol=0.05)


def test_no_bias_where_nothing_is_padded():
    assert padding_bias(torch.zeros(2, 7, dtype=torch.bool), torch.float32) is None
    bias = padding_bias(torch.tensor([[False, True]]), torch.bfloat16)
    assert bias.dtype == torch.bfloat16
    assert bias.tolist() == [[[[0.0, float("-inf")]]]]


@pytest.mark.parametrize("dropout", [0.0, NEXT_TO_NOTHING], ids=["fused", "with dropout"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_keeps_close_to_float32(dropout, dtype):
    ours, _ = pair(dropout)
    arguments = inputs("cross")
    bias = padding_bias(torch.arange(7)[None] >= torch.tensor([7, 3, 1])[:, None], torch.float32)
    wanted = ours(*arguments, bias)
    with torch.autocast("cpu", dtype):
        found = ours(*arguments, bias)
    assert found.dtype == dtype
    assert torch.allclose(found.float(), wanted, atol=0.05)


def test_heads_that_do_not_divide_the_width():
    with pytest.raises(ValueError, match="3 heads"):
        MultiheadAttention(16, 3, 0.0)
