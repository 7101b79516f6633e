from __future__ import annotations

import torch
from torch import nn

from trainer.training.ema import Average


def test_the_average_follows_by_a_growing_share_up_to_the_decay():
    model = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(model.weight)
    average = Average(model, decay=0.5)
    expected = 0.0
    for step in range(1, 30):
        nn.init.constant_(model.weight, float(step))
        average.update_parameters(model)
        keep = min(0.5, step / (step + 9)) if step > 1 else 0
        expected = keep * expected + (1 - keep) * step
        torch.testing.assert_close(average.model.weight.item(), expected)


def test_counters_are_copied_and_the_model_is_left_alone():
    model = nn.BatchNorm2d(2)
    average = Average(model, decay=0.9)
    model(torch.randn(4, 2, 3, 3))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    average.update_parameters(model)
    model(torch.randn(4, 2, 3, 3))
    average.update_parameters(model)
    assert int(average.model.num_batches_tracked) == 2
    assert all(torch.equal(model.state_dict()[name], before[name]) for name in ("weight", "bias"))
    assert not torch.equal(average.model.running_mean, model.running_mean)


def test_it_survives_a_checkpoint():
    model = nn.Linear(2, 2)
    average, resumed = Average(model, 0.9), Average(nn.Linear(2, 2), 0.9)
    for step in range(6):
        if step == 3:
            resumed.resume(average.model.state_dict(), step)
        nn.init.constant_(model.weight, float(step))
        average.update_parameters(model)
        if step >= 3:
            resumed.update_parameters(model)
    assert all(torch.equal(a, b) for a, b in zip(resumed.parameters(), average.parameters(), strict=True))
