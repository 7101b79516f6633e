"""Models for tests, in one call."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from trainer.models.detr.model import DETR, build
from trainer.models.interface import Target


def build_model(
    name: str,
    num_classes: int,
    pretrained: str | None = None,
    *,
    class_names: Sequence[str] | None = None,
    aux_loss: bool = False,
    **settings: Any,
) -> DETR:
    """A DETR with random or given weights."""
    model = build({"model": name, "num_classes": num_classes, "aux_loss": aux_loss, **settings})
    if pretrained is not None:
        model.load_pretrained(pretrained, class_names)
    return model


def random_images(*shape: int) -> Tensor:
    """Noise as uint8."""
    return torch.randint(0, 256, shape, dtype=torch.uint8)


def losses_of(criterion: Any, outputs: dict[str, Tensor], targets: list[Target]) -> dict[str, Tensor]:
    """What a criterion gives for a batch that is not divided."""
    return dict(criterion(outputs, targets, criterion.normalizers(targets, outputs["pred_logits"].shape[1])))
