from __future__ import annotations

import pytest
import torch

from trainer.config import TrainConfig
from trainer.schedule import rate_factor, set_rates


def test_rise_plateau_and_drop():
    config = TrainConfig.create(dataset_dir="d", output_dir="o", epochs=10, warmup_steps=4, lr_drop=6)
    rising = [rate_factor(config, 0, step) for step in range(5)]
    assert rising == pytest.approx([0.25, 0.5, 0.75, 1, 1])
    assert [rate_factor(config, epoch, 100) for epoch in (5, 6, 9)] == pytest.approx([1, 0.1, 0.1])


def test_each_group_keeps_its_own_rate():
    config = TrainConfig.create(dataset_dir="d", output_dir="o", epochs=3, lr_drop=1)
    groups = [{"params": [torch.zeros(1)], "full_lr": rate} for rate in (1e-4, 1e-5)]
    optimizer = torch.optim.AdamW(groups)
    set_rates(optimizer, config, epoch=1, step=50)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([1e-5, 1e-6])
