"""AdamW with a rate of its own for the backbone, and the rates as a function of where training is.

A resumed run therefore has no schedule to restore (section 4 and appendix A.4 of the paper).
"""

from __future__ import annotations

import torch
from torch.optim import Optimizer

from trainer.config import TrainConfig
from trainer.models.interface import DetectionModel


def build_optimizer(model: DetectionModel, config: TrainConfig) -> torch.optim.AdamW:
    """AdamW over the model's parameter groups; a backbone rate of 0 freezes the backbone."""
    if config.lr_backbone == 0:
        model.freeze("backbone")
    groups = [{**group, "full_lr": group["lr"]} for group in model.parameter_groups(config)]
    # One kernel for all weights rather than a dozen for each; torch has it for the CPU and for CUDA.
    fused = next(model.parameters()).device.type in ("cpu", "cuda")
    return torch.optim.AdamW(groups, lr=config.lr, weight_decay=config.weight_decay, fused=fused)


def rate_factor(epoch: int, step: int, *, warmup_steps: int, drop_epoch: int) -> float:
    """The factor of all learning rates: a linear rise, then 1, then 0.1 (appendix A.4).

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
