"""Weights to start from: the authors' on COCO, ImageNet's for the backbone, or those of an earlier run."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import torch
import torchvision
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN_ResNet50_FPN_Weights

from trainer import checkpoint
from trainer.errors import TrainerError
from trainer.models.backbones.efficientnet_lite import imagenet_weights
from trainer.models.detr.architectures import Architecture

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
_NAMES_SHOWN = 10


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
        source, content = "the COCO weights", _download(design.coco_weights)
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
    row_of = {_plain(name): row for row, name in enumerate(known or []) if name is not None}
    names = list(wanted) if wanted is not None else []
    origin = [row_of.get(_plain(name)) for name in names] or [None] * (count - 1)
    used = sorted(row_of.values()) or list(range(rows - 1))
    head = {}
    for key, value in theirs.items():
        # A new class starts as the average of the known ones: as rare beside "no object", and no likelier
        # than the classes that are kept. torch's own initial row would outbid both on any object at all.
        new = value[used].mean(0) if used else own[key][0]
        head[key] = torch.stack([new if row is None else value[row] for row in origin] + [value[-1]])
    if names:
        kept = [name for name, row in zip(names, origin, strict=True) if row is not None]
        anew = [name for name, row in zip(names, origin, strict=True) if row is None]
        _log.info("class head: kept rows for %s; made anew for %s", _listed(kept), _listed(anew))
    else:
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


def _plain(name: str) -> str:
    """A class name without what people write differently: case, spaces, hyphens and underscores."""
    return "".join(letter for letter in name.casefold() if not letter.isspace() and letter not in "-_")


def _listed(names: list[str]) -> str:
    """The names, or as many as a line has room for."""
    more = len(names) - _NAMES_SHOWN
    return (", ".join(names[:_NAMES_SHOWN]) or "none") + (f" and {more} more" if more > 0 else "")


def _load_imagenet(model: nn.Module, backbone: str) -> None:
    """Copies ImageNet weights into the backbone: torchvision's first edition, as the paper used, or lite0's."""
    if backbone == "efficientnet_lite0":
        prefix, weights = "backbone.0.", imagenet_weights()
    else:
        entry = torchvision.models.get_model_weights(backbone).IMAGENET1K_V1
        prefix, weights = "backbone.0.body.", _download(entry.url)
    own = [key for key in model.state_dict() if key.startswith("backbone.")]
    loaded = {prefix + key: value for key, value in weights.items() if prefix + key in own}
    missing = [key for key in own if key not in loaded and not key.endswith("num_batches_tracked")]
    if missing:
        raise TrainerError(f"the ImageNet weights of {backbone} are not what this model needs: no {missing[0]}")
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
