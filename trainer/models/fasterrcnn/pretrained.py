"""Weights for Faster R-CNN to start from: torchvision's on COCO, ImageNet's for the backbone, or an earlier run's."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torchvision.models import ResNet50_Weights
from torchvision.models.detection import FasterRCNN_ResNet50_FPN_Weights

from trainer import checkpoint
from trainer.errors import TrainerError
from trainer.models.backbones.efficientnet_lite import imagenet_weights
from trainer.models.class_rows import choose_rows, match_names
from trainer.models.download import download

if TYPE_CHECKING:
    from trainer.models.fasterrcnn.model import FasterRCNNDetector

_log = logging.getLogger("trainer")

_SCORES = "roi_heads.box_predictor.cls_score."
_BOXES = "roi_heads.box_predictor.bbox_pred."


def load(model: FasterRCNNDetector, source: str, class_names: Sequence[str] | None) -> None:
    """Loads weights into a freshly built model, keeps its normalisation as they do, and logs what was done.

    Args:
        model: changed in place.
        source: "coco", "imagenet", or the path of a checkpoint or of the folder of a run.
        class_names: by label; rows of classes that the weights know by name are kept. None keeps all rows.

    Raises:
        TrainerError: the weights cannot be had, or are those of another model.
    """
    if source == "imagenet":
        _load_imagenet(model)
        model.freeze_norm()
        return
    if source == "coco":
        if model.spec["model"] != "fasterrcnn_resnet50":
            raise TrainerError(
                f"there are no COCO weights for {model.spec['model']}; set pretrained to imagenet or none"
            )
        entry = FasterRCNN_ResNet50_FPN_Weights.COCO_V1
        known = [None if name in ("N/A", "__background__") else str(name) for name in entry.meta["categories"]][1:]
        _load(model, download(entry.url), known, class_names, "torchvision's COCO weights")
        # torchvision trained them so.
        model.freeze_norm(eps=0.0)
        return
    file = checkpoint.find_checkpoint(source)
    if file is None:
        raise TrainerError(f"pretrained: {source} is not a checkpoint; give coco, imagenet, none, or a checkpoint")
    content = checkpoint.read(file)
    names = content.get("class_names")
    if not isinstance(names, list):
        raise TrainerError(f"{file} does not name its classes; name a checkpoint that a training wrote")
    _load(model, content.get("model", {}), list(names), class_names, str(file))
    _, spec = checkpoint.model_in(content) or ("", {})
    if spec.get("frozen_norm"):
        model.freeze_norm(spec.get("norm_eps"))


def _load(
    model: FasterRCNNDetector,
    weights: dict[str, Tensor],
    known: list[str | None],
    class_names: Sequence[str] | None,
    where: str,
) -> None:
    own = model.state_dict()
    missing = [key for key in own if key not in weights and not key.endswith("num_batches_tracked")]
    if missing:
        raise TrainerError(f"{where} is not a checkpoint of {model.spec['model']}: {missing[0]} is missing")
    loaded = {key: weights[key] for key in own if key in weights}
    origin = match_names(known, known if class_names is None else class_names)
    for head, per_class in ((_SCORES, 1), (_BOXES, 4)):
        for part in ("weight", "bias"):
            value = loaded[head + part]
            if len(value) != per_class * (len(known) + 1):
                raise TrainerError(f"{where}: {head}{part} has {len(value)} rows for {len(known)} classes")
            # Row 0 is the background's.
            rows = value.view(len(known) + 1, per_class, *value.shape[1:])
            chosen = choose_rows(rows[1:], origin, known)
            loaded[head + part] = torch.cat([rows[:1], chosen]).flatten(0, 1)
    for key, value in loaded.items():
        if value.shape != own[key].shape:
            raise TrainerError(
                f"{where} is not a checkpoint of {model.spec['model']}: {key} has shape {list(value.shape)},"
                f" not {list(own[key].shape)}"
            )
    model.load_state_dict(loaded, strict=False)
    _log.info("loaded %d tensors from %s", len(loaded), where)


def _load_imagenet(model: FasterRCNNDetector) -> None:
    """Copies ImageNet weights into the backbone: torchvision's first edition, or lite0's."""
    body = model.backbone.body
    if model.spec["model"] == "fasterrcnn_lite0":
        weights: dict[str, Any] = {key.removeprefix("body."): value for key, value in imagenet_weights().items()}
    else:
        weights = download(ResNet50_Weights.IMAGENET1K_V1.url)
    own = body.state_dict()
    loaded = {key: value for key, value in weights.items() if key in own}
    missing = [key for key in own if key not in loaded and not key.endswith("num_batches_tracked")]
    if missing:
        raise TrainerError(f"the ImageNet weights are not what {model.spec['model']} needs: no {missing[0]}")
    body.load_state_dict(loaded, strict=False)
    _log.info("loaded %d backbone tensors of %s from ImageNet", len(loaded), model.spec["model"])
