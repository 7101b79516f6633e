"""Weights to start from: ImageNet's for the backbone, or those of an earlier run, whatever classes that had."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from trainer import checkpoint
from trainer.errors import TrainerError
from trainer.models.backbones.efficientnet_lite import imagenet_weights
from trainer.models.class_rows import choose_rows, match_names

if TYPE_CHECKING:
    from trainer.models.ddq.model import DdqDetector

_log = logging.getLogger("trainer")


@torch.no_grad()
def load(model: DdqDetector, source: str, class_names: Sequence[str] | None) -> None:
    """Loads weights into a freshly built model and logs what was loaded.

    Args:
        model: changed in place; its class heads are the layers named `class_embed`.
        source: "imagenet", or the path of a checkpoint or of the folder of a run.
        class_names: by label; rows of classes that the checkpoint knows by name are kept. None keeps all rows.

    Raises:
        TrainerError: the weights cannot be had, or are those of another model.
    """
    name = model.spec["model"]
    if source == "imagenet":
        model.freeze_norm()
        model.backbone.load_state_dict(imagenet_weights())
        _log.info("loaded the backbone of %s from ImageNet", name)
        return
    if source == "coco":
        raise TrainerError(f"there are no COCO weights for {name}; set pretrained to imagenet, none or a checkpoint")
    file = checkpoint.find_checkpoint(source)
    if file is None:
        raise TrainerError(
            f"pretrained: {source} is neither a checkpoint nor the folder of a run that has checkpoints/best.pth;"
            " give imagenet, none, or a checkpoint"
        )
    content = checkpoint.read(file)
    family, spec = checkpoint.model_in(content) or ("", {})
    if family != "ddq":
        its = content.get("model_name") or spec.get("model") or "another model"
        raise TrainerError(f"{file} is a checkpoint of {its}, not of {name}; set model to match it")
    if spec.get("frozen_norm"):
        model.freeze_norm()
    own, weights, known = model.state_dict(), content["model"], content["class_names"]
    origin = match_names(known, known if class_names is None else class_names)
    loaded = {}
    for key, value in own.items():
        there: Tensor | None = weights.get(key)
        if there is not None and ".class_embed." in key:
            there = choose_rows(there, origin, known)
        if there is None or there.shape != value.shape:
            raise TrainerError(f"{file} is of a {name} of other sizes: see its {key}")
        loaded[key] = there
    model.load_state_dict(loaded)
    _log.info("loaded %d tensors from %s", len(loaded), file)
