"""Weights to start from: the authors' on COCO, torchvision's on ImageNet, or a checkpoint file."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import torch
import torchvision
from torch import Tensor, nn

from trainer import checkpoint
from trainer.architectures import Architecture
from trainer.errors import TrainerError

_log = logging.getLogger("trainer")

# Their sizes follow from the user's data, so they are the only weights that may differ in shape.
_MADE_ANEW = ("class_embed.", "query_embed.")


def norm_of(pretrained: str | None, default: bool) -> bool:
    """Whether the backbone's normalisation is fixed in the weights that `pretrained` names.

    Raises:
        TrainerError: it is a path, and no checkpoint can be read there.
    """
    if pretrained is None:
        return default
    if pretrained in ("coco", "imagenet"):
        return True
    return bool(checkpoint.read(pretrained).get("model_config", {}).get("frozen_norm", True))


def load_pretrained(model: nn.Module, pretrained: str, name: str, design: Architecture) -> None:
    """Loads weights into a freshly built model and logs what was loaded, made anew and left.

    Args:
        model: a `DETR`, changed in place.
        pretrained: "coco", "imagenet" or the path of a checkpoint.
        name: of the model, for messages.
        design: the model's sizes.

    Raises:
        TrainerError: the weights cannot be had, or are those of another model.
    """
    if pretrained == "imagenet":
        _load_imagenet(model, design.backbone)
        return
    if pretrained == "coco":
        if design.coco_weights is None:
            raise TrainerError(
                f"there are no COCO weights for {name}; set pretrained to none, imagenet or a checkpoint"
            )
        content = _download(design.coco_weights)
    else:
        content = checkpoint.read(pretrained)
    weights = content.get("model", content)
    _fit(model, weights, f"{pretrained} weights" if pretrained == "coco" else pretrained, name)


def _fit(model: nn.Module, weights: dict[str, Tensor], source: str, name: str) -> None:
    """Copies every weight of the model but a class head or query embedding of another size."""
    own = model.state_dict()
    kept = {key: value for key, value in own.items() if not key.endswith("num_batches_tracked")}
    missing = [key for key in kept if key not in weights]
    if missing:
        raise TrainerError(f"{source} is not a checkpoint of {name}: it has no {missing[0]}")
    differ = [key for key in kept if kept[key].shape != weights[key].shape]
    foreign = [key for key in differ if not key.startswith(_MADE_ANEW)]
    if foreign:
        raise TrainerError(
            f"{source} is not a checkpoint of {name}: {foreign[0]} has shape"
            f" {list(weights[foreign[0]].shape)}, not {list(kept[foreign[0]].shape)}"
        )
    # A head of another size is made anew as a whole: a bias of one would not suit the weights of the other.
    anew = {prefix for prefix in _MADE_ANEW if any(key.startswith(prefix) for key in differ)}
    loaded = {key: weights[key] for key in own if key in weights and not key.startswith(tuple(anew or {"\0"}))}
    model.load_state_dict(loaded, strict=False)
    left = [key for key in weights if key not in own and not key.endswith("num_batches_tracked")]
    _log.info(
        "loaded %d tensors from %s; made anew: %s; left aside: %s",
        len(loaded),
        source,
        ", ".join(sorted(prefix.rstrip(".") for prefix in anew)) or "nothing",
        f"{len(left)} ({left[0]}, ...)" if left else "nothing",
    )


def _load_imagenet(model: nn.Module, backbone: str) -> None:
    """Copies torchvision's ImageNet weights (the first edition, as the paper used) into the backbone."""
    entry = torchvision.models.get_model_weights(backbone).IMAGENET1K_V1
    weights = _download(entry.url)
    prefix = "backbone.0.body."
    own = {key for key in model.state_dict() if key.startswith(prefix)}
    loaded = {prefix + key: value for key, value in weights.items() if prefix + key in own}
    model.load_state_dict(loaded, strict=False)
    _log.info("loaded %d backbone tensors of %s from ImageNet", len(loaded), backbone)


def _download(url: str) -> dict[str, Any]:
    """What torch hub keeps under the address's file name, fetched when it is not there yet."""
    file = Path(torch.hub.get_dir()) / "checkpoints" / Path(urlparse(url).path).name
    try:
        content = torch.hub.load_state_dict_from_url(
            url, map_location="cpu", check_hash=True, progress=False, weights_only=True
        )
    except (OSError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise TrainerError(f"cannot get {url} ({reason}); put that file at {file}, or set pretrained to none") from None
    return dict(content)
