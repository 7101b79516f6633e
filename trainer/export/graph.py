"""The network with everything behind it as one graph: pixels in, boxes out."""

from __future__ import annotations

import json
from typing import Any

import torch
from torch import Tensor, nn

from trainer import checkpoint
from trainer.models.interface import DetectionModel

INPUTS = ("images", "image_sizes", "target_sizes")
OUTPUTS = ("boxes", "scores", "labels")

CONTRACT = """\
images: uint8 [B, 3, H, W], RGB, upright (EXIF applied), scaled bilinearly with antialiasing so that the shorter side \
has image_size px, or less where the longer would pass max_size px, and padded with any value at the right and bottom.
image_sizes: int64 [B, 2], height and width in px of each image without its padding.
target_sizes: int64 [B, 2], height and width in px of the images to give boxes for: the originals'.
boxes: float32 [B, N, 4], x0, y0, x1, y1 in px of the target, in no order; they may reach over its edge.
scores: float32 [B, N], 0 to 1. What scores less than its class's threshold is no detection.
labels: int64 [B, N], places in class_names."""
"""Inputs and outputs in words; every file says it about itself."""


class DetectionGraph(nn.Module):
    """A model from bytes to boxes, with tensors alone at either end. `CONTRACT` tells which."""

    def __init__(self, model: DetectionModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor, image_sizes: Tensor, target_sizes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Detects objects; see `CONTRACT`."""
        height, width = image_sizes[:, :, None].unbind(1)
        below = torch.arange(images.shape[2], device=images.device) >= height
        right = torch.arange(images.shape[3], device=images.device) >= width
        found = self.model.decode(self.model(images, below[:, :, None] | right[:, None]), target_sizes)
        return found["boxes"], found["scores"], found["labels"]


def example_inputs(side: int, batch: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    """Inputs of a graph: noise, of which all images but the first are padded."""
    generator = torch.Generator().manual_seed(side)
    height, width = side, side + side // 4
    images = torch.randint(0, 256, (batch, 3, height, width), dtype=torch.uint8, generator=generator)
    sizes = torch.tensor([[height - side // 4 * place, width - side // 3 * place] for place in range(batch)])
    return images, sizes, 2 * sizes


def described(content: dict[str, Any], thresholds: list[float]) -> dict[str, str]:
    """What a file says about itself, as text by name; lists and objects are JSON.

    Args:
        content: of the checkpoint.
        thresholds: score by label from which a detection counts.
    """
    family, spec = checkpoint.model_in(content) or ("", {})
    return {
        "family": family,
        "model": str(spec.get("model", "")),
        "class_names": json.dumps(content["class_names"], ensure_ascii=False),
        "category_ids": json.dumps(content["category_ids"]),
        "thresholds": json.dumps(thresholds),
        "operating_points": json.dumps(content.get("operating_points") or {}),
        "image_size": str(content["image_size"]),
        "max_size": str(content["max_size"]),
        "contract": CONTRACT,
    }
