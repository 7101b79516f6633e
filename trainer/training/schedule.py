"""The learning rate as a function of where training is, so that a resumed run has nothing to restore."""

from __future__ import annotations

from torch.optim import Optimizer


def rate_factor(epoch: int, step: int, *, warmup_steps: int, drop_epoch: int) -> float:
    """What both learning rates are multiplied with: a linear rise, then 1, then 0.1 (appendix A.4).

    Args:
        epoch: complete epochs, from 0.
        step: optimizer steps taken, from 0.
        warmup_steps: over which the rates rise from 0.
        drop_epoch: epochs at the full rate.
    """
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    return 0.1 if epoch >= drop_epoch else 1.0


def set_rates(optimizer: Optimizer, factor: float) -> None:
    """Sets each parameter group's rate from its `full_lr`."""
    for group in optimizer.param_groups:
        group["lr"] = group["full_lr"] * factor
