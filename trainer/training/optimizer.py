"""AdamW with a rate of its own for the backbone (section 4 and appendix A.4)."""

from __future__ import annotations

import torch

from trainer.config import TrainConfig
from trainer.models.detr.model import DETR


def build_optimizer(model: DETR, config: TrainConfig) -> torch.optim.AdamW:
    """AdamW over the weights that train, in two groups: the backbone's, at `lr_backbone`, and all others.

    A backbone rate of 0 freezes the backbone, in `model` itself.
    """
    if config.lr_backbone == 0:
        model.backbone.requires_grad_(False)
    named = [(name, weight) for name, weight in model.named_parameters() if weight.requires_grad]
    groups = [
        {"params": [w for name, w in named if not name.startswith("backbone.")], "full_lr": config.lr},
        {"params": [w for name, w in named if name.startswith("backbone.")], "full_lr": config.lr_backbone},
    ]
    # One kernel for all weights rather than a dozen for each; torch has it for the CPU and for CUDA.
    fused = next(model.parameters()).device.type in ("cpu", "cuda")
    return torch.optim.AdamW(groups, lr=config.lr, weight_decay=config.weight_decay, fused=fused)
