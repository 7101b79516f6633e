"""Weights to start from: the authors' on COCO, ImageNet's for the backbone, or those of an earlier run."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import torch
import torchvision
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN_ResNet50_FPN_Weights

from trainer import checkpoint
from trainer.errors import TrainerError
from trainer.models.backbones.efficientnet_lite import imagenet_weights
from trainer.models.class_rows import choose_rows, match_names
from trainer.models.detr.architectures import Architecture
from trainer.models.download import download

_log = logging.getLogger("trainer")

# Their sizes follow from the user's data, so they are the only weights whose number of rows may differ.
_CLASS_HEAD = ("class_embed.weight", "class_embed.bias")
_QUERIES = ("query_embed.weight", "query_anchor.weight")
_COCO_ROWS = 92
# The authors number COCO's classes by their ids, which have gaps, and so does torchvision.
_COCO_NAMES: list[str | None] = [
    None if name in ("__background__", "N/A") else name
    for name in FasterRCNN_ResNet50_FPN_Weights.COCO_V1.meta["categories"]
]


def load(model: nn.Module, pretrained: str, name: str, design: Architecture, class_names: Sequence[str] | None) -> bool:
    """Loads weights into a freshly built model and logs what was loaded, made anew and ignored.

    Args:
        model: a `DETR`, changed in place.
        pretrained: "coco", "imagenet", or the path of a checkpoint or of the folder of a run.
        name: of the model, for messages.
        design: the model's sizes.
        class_names: of the model, by label. Rows of the class head are kept for the classes that the weights know by
            name (case, spaces, hyphens and underscores aside) and made anew for others. None keeps all rows
            if there are as many, and otherwise only that of "no object".

    Returns:
        Whether the backbone's batch normalisation was fixed when the weights were made.

    Raises:
        TrainerError: the weights cannot be had, or are those of another model.
    """
    if pretrained == "imagenet":
        _load_imagenet(model, design.backbone)
        return True
    if pretrained == "coco":
        if design.coco_weights is None:
            raise TrainerError(
                f"there are no COCO weights for {name}; set pretrained to none, imagenet or a checkpoint"
            )
        source, content = "the COCO weights", download(design.coco_weights)
    else:
        file = checkpoint.find_checkpoint(pretrained)
        if file is None:
            raise TrainerError(
                f"pretrained: {pretrained} is neither a checkpoint nor the folder of a run that has"
                " checkpoints/best.pth; give coco, imagenet, none, or a checkpoint"
            )
        source, content = str(file), checkpoint.read(file)
    weights = content.get("model", content)
    own = model.state_dict()
    _check(own, weights, source, name)
    loaded = {key: weights[key] for key in own if key in weights}
    loaded.update(_class_head(own, weights, _names_in(content, weights), class_names))
    for key in _QUERIES:
        if key in own:
            loaded[key] = _queries(own[key], weights[key])
    model.load_state_dict(loaded, strict=False)
    queries, known = len(own[_QUERIES[0]]), len(weights[_QUERIES[0]])
    if queries != known:
        _log.info("object queries: kept %d of %d, made %d anew", min(queries, known), known, max(0, queries - known))
    left = [key for key in weights if key not in own and not key.endswith("num_batches_tracked")]
    _log.info("loaded %d tensors from %s", len(loaded), source)
    if left:
        _log.info("ignored %d of its tensors, which %s has no place for (%s, ...)", len(left), name, left[0])
    # The authors' files do not say: theirs is fixed.
    _, spec = checkpoint.model_in(content) or ("", {})
    return bool(spec.get("frozen_norm", True))


def _check(own: dict[str, Tensor], weights: Any, source: str, name: str) -> None:
    """Raises unless the file has every weight of the model, in its shape but for rows that follow the data."""
    for key, value in own.items():
        if key.endswith("num_batches_tracked"):
            continue
        there = weights.get(key) if isinstance(weights, dict) else None
        if not isinstance(there, Tensor):
            raise TrainerError(f"{source} is not a checkpoint of {name}: it has no {key}")
        skip = 1 if key in (*_CLASS_HEAD, *_QUERIES) else 0
        if there.dim() != value.dim() or there.shape[skip:] != value.shape[skip:]:
            raise TrainerError(
                f"{source} is not a checkpoint of {name}: {key} has shape {list(there.shape)}, not {list(value.shape)}"
            )


def _names_in(content: dict[str, Any], weights: dict[str, Tensor]) -> list[str | None] | None:
    """The class of each row of a file's class head but the last, None for an unused row; None if it is unknown."""
    rows = len(weights["class_embed.weight"])
    names = content.get("class_names")
    if isinstance(names, list) and len(names) == rows - 1:
        return names
    return _COCO_NAMES if rows == _COCO_ROWS else None


def _class_head(
    own: dict[str, Tensor],
    weights: dict[str, Tensor],
    known: list[str | None] | None,
    wanted: Sequence[str] | None,
) -> dict[str, Tensor]:
    """The class head for the model's classes: rows of classes that the file knows by name, and new ones.

    A row's number means nothing: CVAT numbers the labels of a task in their order.
    """
    theirs = {key: weights[key] for key in _CLASS_HEAD}
    rows, count = len(theirs["class_embed.weight"]), len(own["class_embed.weight"])
    if wanted is None and rows == count:
        _log.info("class head: kept all %d rows", rows)
        return theirs
    if known is None:
        _log.info("class head: the file does not name its classes, so only the row of 'no object' is kept")
    names = list(wanted) if wanted is not None else []
    known = known if known is not None else [None] * (rows - 1)
    origin = match_names(known, names) if names else [None] * (count - 1)
    # A new class is as rare beside "no object" as the known ones, and no likelier than those that are kept. torch's
    # own initial row would outbid both on any object at all.
    head = {key: torch.cat([choose_rows(value[:-1], origin, known), value[-1:]]) for key, value in theirs.items()}
    if not names:
        _log.info("class head: made anew but for 'no object', as the model's classes have no names here")
    return head


def _queries(own: Tensor, theirs: Tensor) -> Tensor:
    """The file's object queries, cut off or filled up with new ones to the model's number.

    Queries come in no order, so the first are as good a choice as any, and each of them has learned where to
    look and for boxes of what size; the places of those that go, the others learn to serve. One that is
    made anew starts where they all did.
    """
    kept = min(len(own), len(theirs))
    return torch.cat([theirs[:kept], own[kept:]])


def _load_imagenet(model: nn.Module, backbone: str) -> None:
    """Copies ImageNet weights into the backbone: torchvision's first edition, as the paper used, or lite0's."""
    if backbone == "efficientnet_lite0":
        prefix, weights = "backbone.0.", imagenet_weights()
    else:
        entry = torchvision.models.get_model_weights(backbone).IMAGENET1K_V1
        prefix, weights = "backbone.0.body.", download(entry.url)
    own = [key for key in model.state_dict() if key.startswith("backbone.")]
    loaded = {prefix + key: value for key, value in weights.items() if prefix + key in own}
    missing = [key for key in own if key not in loaded and not key.endswith("num_batches_tracked")]
    if missing:
        raise TrainerError(f"the ImageNet weights of {backbone} are not what this model needs: no {missing[0]}")
    model.load_state_dict(loaded, strict=False)
    _log.info("loaded %d backbone tensors of %s from ImageNet", len(loaded), backbone)
