"""Where a model's first weights came from, and under which licence."""

from __future__ import annotations

from typing import Any

from trainer import checkpoint
from trainer.models.detr.architectures import ARCHITECTURES

_LITE = "EfficientNet-lite0 of TensorFlow's TPU repository, trained on ImageNet", "Apache-2.0"
_DETR = "the authors' DETR (github.com/facebookresearch/detr), trained on COCO", "Apache-2.0"
_TORCHVISION = "BSD-3-Clause (torchvision), and the terms of the data they were trained on"


def initial_weights(content: dict[str, Any]) -> tuple[str, str]:
    """What a training started from, and its licence, in words.

    Args:
        content: of the checkpoint.
    """
    family, spec = checkpoint.model_in(content) or ("", {})
    source, model = content.get("config", {}).get("pretrained"), str(spec.get("model"))
    if source is None:
        return "none: random weights", "none needed"
    if source == "published":
        return f"{model.partition(':')[2]} at {spec.get('revision') or 'no known revision'}", str(
            spec.get("license") or "not stated by its authors"
        )
    if source == "coco":
        return _DETR if family == "detr" else ("torchvision's Faster R-CNN, trained on COCO", _TORCHVISION)
    if source != "imagenet":
        return f"an earlier checkpoint, {source}", "that of the earlier model: see its card"
    resnet = ARCHITECTURES[model].backbone if family == "detr" else "resnet50" if "resnet50" in model else ""
    if resnet.startswith("resnet"):
        return f"torchvision's {resnet}, trained on ImageNet", _TORCHVISION
    return _LITE
