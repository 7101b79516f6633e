"""The losses: of the dense first stage, of the matched queries, and of the denoising queries."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional
from torchvision.ops import box_convert

from trainer.models.box_ops import generalized_iou, iou
from trainer.models.ddq.assignment import assign
from trainer.models.ddq.denoising import Denoising
from trainer.models.ddq.dense_head import Dense
from trainer.models.ddq.matcher import box_distance, match
from trainer.models.ddq.settings import DdqSettings
from trainer.models.ddq.targets import Targets, pad_targets

FIGURES = ("loss", "loss_dense_class", "loss_dense_giou", "loss_class", "loss_box", "loss_giou", "loss_denoising")

# Varifocal loss (Zhang et al. 2020, arXiv 2008.13367): how much background counts, and how fast its weight falls as it
# is recognised.
_BACKGROUND, _FOCUS = 0.75, 2.0
# Matchability-aware loss (DEIM, Huang et al. 2024, arXiv 2412.04234, section 3.3).
_MATCH_POWER = 1.5


class Outputs(NamedTuple):
    """What the model says about a batch."""

    dense: Dense
    logits: Tensor
    """float32 `[L, B, Q + R, C]`: for each decoder layer, of the Q queries and of the R that denoise."""
    boxes: Tensor
    """float32 `[L, B, Q + R, 4]`, cx, cy, w, h in px of the padded images."""
    distinct: Tensor
    """bool `[L, B, Q]`; False for queries that say nothing after a layer, as they repeat another one."""
    denoising: Denoising | None
    sizes: Tensor
    """float32 `[B, 2]`, width and height in px of each image without its padding."""


class _Pairs(NamedTuple):
    """What queries are to say, `[L, B, Q]`."""

    object: Tensor
    """int64, place of the object among the image's; 0 where there is none."""
    matched: Tensor
    """bool."""
    counted: Tensor
    """bool, broadcastable: whether the query's score is in the loss."""


def losses(
    outputs: Outputs, targets: Sequence[dict[str, Tensor]], objects: Tensor, settings: DdqSettings
) -> dict[str, Tensor]:
    """The weighted losses, each a float32 scalar, under the names of `FIGURES`.

    Args:
        outputs: of the model.
        targets: for each image `labels` int64 `[n]` and `boxes` `[n, 4]`, cx, cy, w, h in fractions of the image.
        objects: how many there are in the whole batch that these images are a part of.
        settings: the weights.
    """
    objects = objects.float().clamp(min=1)
    padded = pad_targets(targets, outputs.sizes)
    counts = [len(target["labels"]) for target in targets]
    dense_class, dense_giou = _dense_losses(outputs.dense, padded, settings.assigned_cells)
    scale = settings.dense_loss / (objects * settings.assigned_cells)
    parts = {
        "loss_dense_class": dense_class * scale,
        "loss_dense_giou": dense_giou * scale * settings.giou_loss,
    }

    count = outputs.distinct.shape[2]
    pairs = _match_queries(outputs, padded, counts, settings)
    own = _query_losses(outputs.logits[:, :, :count], outputs.boxes[:, :, :count], pairs, padded, outputs.sizes)
    weights = (settings.class_loss, settings.box_loss, settings.giou_loss)
    for name, value, weight in zip(("loss_class", "loss_box", "loss_giou"), own, weights, strict=True):
        parts[name] = value * weight / objects
    parts["loss_denoising"] = dense_class.new_zeros(())
    if outputs.denoising is not None:
        pairs = _denoising_pairs(outputs.denoising, len(outputs.logits))
        noisy = _query_losses(outputs.logits[:, :, count:], outputs.boxes[:, :, count:], pairs, padded, outputs.sizes)
        total = sum(value * weight for value, weight in zip(noisy, weights, strict=True))
        parts["loss_denoising"] = total / (objects * outputs.denoising.groups)
    return {"loss": torch.stack(list(parts.values())).sum(), **parts}


def _dense_losses(dense: Dense, targets: Targets, cells: int) -> tuple[Tensor, Tensor]:
    """Sums over the batch of the varifocal loss and of the generalised IoU loss."""
    if targets.labels.shape[1] == 0:
        wanted = torch.zeros_like(dense.logits)
        return _varifocal(dense.logits, wanted, dense.inside), (dense.boxes * 0).sum()
    given = assign(dense, targets, cells)
    labels = targets.labels.gather(1, given.object)
    wanted = functional.one_hot(labels, dense.logits.shape[2]) * given.quality[..., None]
    truth = targets.boxes.gather(1, given.object[..., None].expand(-1, -1, 4))
    off = (1 - generalized_iou(dense.boxes, truth)) * given.weight
    return _varifocal(dense.logits, wanted, dense.inside), off.sum()


def _varifocal(logits: Tensor, wanted: Tensor, inside: Tensor) -> Tensor:
    """Cross-entropy towards the wanted quality `[B, N, C]`; background counts the less the surer it is."""
    score = logits.detach().sigmoid()
    weight = torch.where(wanted > 0, wanted, _BACKGROUND * score**_FOCUS) * inside[..., None]
    return (functional.binary_cross_entropy_with_logits(logits, wanted, reduction="none") * weight).sum()


def _match_queries(outputs: Outputs, targets: Targets, counts: list[int], settings: DdqSettings) -> _Pairs:
    logits = outputs.logits[:, :, : outputs.distinct.shape[2]]
    boxes = outputs.boxes[:, :, : outputs.distinct.shape[2]]
    if targets.labels.shape[1] == 0:
        found = torch.full(logits.shape[:3], -1, device=logits.device)
    else:
        weights = (settings.cost_class, settings.cost_box, settings.cost_giou)
        found = match(logits, boxes, outputs.distinct, targets, counts, outputs.sizes, weights)
    return _Pairs(found.clamp(min=0), found >= 0, outputs.distinct)


def _denoising_pairs(denoising: Denoising, layers: int) -> _Pairs:
    matched = (denoising.near & denoising.present).expand(layers, -1, -1)
    return _Pairs(denoising.object.expand(layers, -1, -1), matched, denoising.present[None])


def _query_losses(
    logits: Tensor, boxes: Tensor, pairs: _Pairs, targets: Targets, sizes: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Sums over layers, images and queries of the class, L1 and generalised IoU losses, unweighted."""
    if targets.labels.shape[1] == 0:
        nothing = (boxes * 0).sum()
        return _matchability(logits, torch.zeros_like(logits), pairs), nothing, nothing
    layers = len(logits)
    labels = targets.labels.expand(layers, -1, -1).gather(2, pairs.object)
    truth = targets.boxes.expand(layers, -1, -1, -1).gather(2, pairs.object[..., None].expand(-1, -1, -1, 4))
    corners = box_convert(boxes, "cxcywh", "xyxy")
    quality = iou(corners.detach(), truth) * pairs.matched
    wanted = functional.one_hot(labels, logits.shape[-1]) * (quality**_MATCH_POWER)[..., None]
    distance = box_distance(corners, truth, sizes[None, :, None]) * pairs.matched
    off = (1 - generalized_iou(corners, truth)) * pairs.matched
    return _matchability(logits, wanted, pairs), distance.sum(), off.sum()


def _matchability(logits: Tensor, wanted: Tensor, pairs: _Pairs) -> Tensor:
    """Cross-entropy towards the wanted score `[L, B, Q, C]`; the other classes count the less the surer they are."""
    score = logits.detach().sigmoid()
    # The class of a matched query counts in full as soon as its box touches the object.
    weight = torch.where(wanted > 0, 1.0, score**_MATCH_POWER) * pairs.counted[..., None]
    return (functional.binary_cross_entropy_with_logits(logits, wanted, reduction="none") * weight).sum()
