from __future__ import annotations

import pytest
import torch

from trainer.training.optimizer import rate_factor, set_rates


def test_rise_plateau_and_drop():
    rising = [rate_factor(0, step, warmup_steps=4, drop_epoch=6) for step in range(5)]
    assert rising == pytest.approx([0.25, 0.5, 0.75, 1, 1])
    later = [rate_factor(epoch, 100, warmup_steps=4, drop_epoch=6) for epoch in (5, 6, 9)]
    assert later == pytest.approx([1, 0.1, 0.1])


def test_each_group_keeps_its_own_rate():
    groups = [{"params": [torch.zeros(1)], "full_lr": rate} for rate in (1e-4, 1e-5)]
    optimizer = torch.optim.AdamW(groups)
    set_rates(optimizer, 0.1)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([1e-5, 1e-6])
