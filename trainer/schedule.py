"""The learning rate as a function of where training is, so that a resumed run has nothing to restore."""

from __future__ import annotations

from torch.optim import Optimizer

from trainer.config import TrainConfig


def rate_factor(config: TrainConfig, epoch: int, step: int) -> float:
    """What both learning rates are multiplied with: a linear rise, then 1, then 0.1 (appendix A.4).

    Args:
        config: for `warmup_steps` and the epoch of the drop.
        epoch: complete epochs, from 0.
        step: optimizer steps taken, from 0.
    """
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    return 0.1 if epoch >= config.drop_epoch else 1.0


def set_rates(optimizer: Optimizer, config: TrainConfig, epoch: int, step: int) -> None:
    """Sets each parameter group's rate from its `full_lr`."""
    factor = rate_factor(config, epoch, step)
    for group in optimizer.param_groups:
        group["lr"] = group["full_lr"] * factor
