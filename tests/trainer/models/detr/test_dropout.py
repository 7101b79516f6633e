from __future__ import annotations

import pytest
import torch

from trainer.models.detr.dropout import Dropout


def dropped(p: float, *shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    torch.manual_seed(0)
    return Dropout(p)(torch.ones(shape, dtype=dtype))


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_share_of_zeros_and_mean(p):
    count = 400_000
    x = dropped(p, count)
    deviation = (p * (1 - p) / count) ** 0.5
    # Four elements come from one draw: each of the four must be as likely to go as the others.
    for lane in range(4):
        assert (x[lane::4] == 0).float().mean().item() == pytest.approx(p, abs=10 * deviation)
    assert x.mean().item() == pytest.approx(1, abs=5 * deviation / (1 - p))
    assert x[x != 0].unique().tolist() == pytest.approx([1 / (1 - p)], rel=1e-3)


def test_elements_are_dropped_independently():
    zero = (dropped(0.5, 400_000) == 0).float()
    for distance in (1, 2, 3, 4):
        together = (zero[distance:] * zero[:-distance]).mean().item()
        assert together == pytest.approx(0.25, abs=0.005)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_gradient_goes_where_the_values_went(dtype):
    torch.manual_seed(0)
    x = torch.randn(3, 5, 7, dtype=dtype).requires_grad_()
    y = Dropout(0.3)(x)
    assert y.dtype == dtype
    y.sum().backward()
    assert torch.equal(y, x * x.grad)
    assert 0 < (x.grad == 0).sum() < x.numel()


def test_the_seed_fixes_what_is_dropped():
    assert torch.equal(dropped(0.5, 101), dropped(0.5, 101))
    layer, x = Dropout(0.5), torch.ones(101)
    assert not torch.equal(layer(x), layer(x))


def test_nothing_is_dropped_in_evaluation_or_with_probability_zero():
    x = torch.randn(9)
    assert torch.equal(Dropout(0.5).eval()(x), x)
    assert torch.equal(Dropout(0.0)(x), x)


def test_a_probability_close_to_one_stays_finite():
    assert torch.isfinite(dropped(0.999999, 1000)).all()
