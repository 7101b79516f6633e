"""The set prediction loss (section 3.1, equation 2, and appendix A.2)."""

from __future__ import annotations

from itertools import accumulate
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from trainer.models.box_ops import cxcywh_to_xyxy, generalized_iou
from trainer.models.detr.matcher import HungarianMatcher, Match

_LAST_LAYER = ("loss_ce", "loss_bbox", "loss_giou", "class_error", "cardinality_error")
LOSSES = ("loss_ce", "loss_bbox", "loss_giou")


class Normalizers(NamedTuple):
    """Of a batch, over all processes and divided by their number."""

    objects: float
    """Number of objects, at least 1."""
    class_weight: float
    """Class weight of all queries: 1 for those that are matched, `eos_coef` for the others."""


class SetCriterion(nn.Module):
    """Matches predictions to objects, layer by layer, and measures how far they are off."""

    class_weight: Tensor

    def __init__(
        self,
        num_classes: int,
        matcher: HungarianMatcher | None = None,
        *,
        ce_loss_coef: float = 1,
        bbox_loss_coef: float = 5,
        giou_loss_coef: float = 2,
        eos_coef: float = 0.1,
    ) -> None:
        """Takes C, the matcher, the weights of the three losses and of the class "no object"."""
        super().__init__()
        self.num_classes = num_classes
        self.matcher = matcher if matcher is not None else HungarianMatcher()
        self.weights = dict(zip(LOSSES, (ce_loss_coef, bbox_loss_coef, giou_loss_coef), strict=True))
        self.eos_coef = eos_coef
        class_weight = torch.ones(num_classes + 1)
        class_weight[-1] = eos_coef
        self.register_buffer("class_weight", class_weight, persistent=False)

    def normalizers(self, targets: list[dict[str, Tensor]], queries: int, *, everywhere: bool = True) -> Normalizers:
        """What the sums over a batch are divided by.

        Computed for the whole of a batch, they make the losses of its parts add up to the loss of the batch,
        whether the parts are computed one after the other or by several processes.

        Args:
            targets: as in `forward`.
            queries: Q.
            everywhere: count over all processes, and divide by their number, as their gradients are averaged.
        """
        sizes = [len(target["labels"]) for target in targets]
        matched = sum(min(size, queries) for size in sizes)
        counts = [float(sum(sizes)), matched + (queries * len(sizes) - matched) * self.eos_coef]
        if everywhere and torch.distributed.is_available() and torch.distributed.is_initialized():
            total = torch.tensor(counts, device=self.class_weight.device)
            torch.distributed.all_reduce(total)
            counts = (total / torch.distributed.get_world_size()).tolist()
        return Normalizers(max(counts[0], 1.0), counts[1])

    def forward(
        self,
        outputs: dict[str, Any],
        targets: list[dict[str, Tensor]],
        normalizers: Normalizers | None = None,
    ) -> dict[str, Tensor]:
        """The losses, unweighted, each a scalar.

        Args:
            outputs: of the model: `pred_logits` `[B, Q, C + 1]`, `pred_boxes` `[B, Q, 4]`, and perhaps
                `aux_outputs`.
            targets: for each image `labels` int64 `[n]` in 0..C-1 and `boxes` `[n, 4]` (cx, cy, w, h in
                fractions of the image).
            normalizers: of the batch that these images are a part of; None where they are all of it.

        Returns:
            For the last layer `loss_ce`, `loss_bbox`, `loss_giou` and, for people to look at, `class_error`
            (percent of matched predictions with the wrong class, 100 where there are no objects) and
            `cardinality_error` (mean absolute difference in the number of objects). For earlier layer i
            `loss_ce_i` and so on.
            The two box losses are sums over matched pairs divided by the number of objects in the batch
            (over the number of processes, and at least 1).
        """
        # The last layer first, so that its losses take the plain names.
        layers = [outputs, *outputs.get("aux_outputs", [])]
        logits = torch.stack([layer["pred_logits"] for layer in layers]).float()
        boxes = torch.stack([layer["pred_boxes"] for layer in layers]).float()
        matches = self.matcher.match_layers(logits, boxes, targets)
        pairs = _gather(matches, targets, logits.device)

        layer_index = torch.arange(len(layers), device=logits.device)[:, None]
        matched_boxes = boxes[layer_index, pairs.image, pairs.query]
        if normalizers is None:
            normalizers = self.normalizers(targets, logits.shape[2])
        by_layer = {
            "loss_ce": self._classification(logits, layer_index, pairs) / normalizers.class_weight,
            "loss_bbox": (matched_boxes - pairs.box).abs().sum((1, 2)) / normalizers.objects,
            "loss_giou": _giou_loss(matched_boxes, pairs.box) / normalizers.objects,
        }
        losses = {}
        for name, values in by_layer.items():
            suffixes = ["", *(f"_{index}" for index in range(len(layers) - 1))]
            losses.update({name + suffix: value for suffix, value in zip(suffixes, values.unbind(), strict=True)})
        losses.update(_errors(logits[0], pairs))
        return losses

    def weighted(self, losses: dict[str, Tensor]) -> Tensor:
        """The scalar to minimise: the losses of all layers under their weights."""
        total = [losses[name] * self.weights[name] for name in LOSSES]
        for name, value in losses.items():
            stem, _, layer = name.rpartition("_")
            if layer.isdigit():
                total.append(value * self.weights[stem])
        return torch.stack(total).sum()

    def _classification(self, logits: Tensor, layer_index: Tensor, pairs: _Pairs) -> Tensor:
        """Weighted cross-entropy of every layer, `[L]`: the sum over all queries."""
        wanted = torch.full(logits.shape[:3], self.num_classes, dtype=torch.int64, device=logits.device)
        wanted[layer_index, pairs.image, pairs.query] = pairs.label
        per_query = functional.cross_entropy(
            logits.flatten(0, 2), wanted.flatten(), self.class_weight, reduction="none"
        )
        return per_query.view_as(wanted).sum((1, 2))


class _Pairs(NamedTuple):
    """The N matched pairs of a batch side by side, for each of the L layers."""

    image: Tensor
    """The image `[N]` that a pair belongs to, the same in every layer."""
    query: Tensor
    """`[L, N]`."""
    label: Tensor
    """Of the pair's object, `[L, N]`."""
    box: Tensor
    """Of the pair's object, `[L, N, 4]`."""
    sizes: Tensor
    """Objects in each image, `[B]`."""


def _gather(matches: list[list[Match]], targets: list[dict[str, Tensor]], device: torch.device) -> _Pairs:
    """Lays the matched pairs side by side, with a single copy to the device that nothing waits for."""
    sizes = [len(target["labels"]) for target in targets]
    starts = [0, *accumulate(sizes)]
    image = torch.cat([torch.full_like(query, index) for index, (query, _) in enumerate(matches[0])])
    query = [torch.cat([pair[0] for pair in layer]) for layer in matches]
    order = [torch.cat([pair[1] + start for pair, start in zip(layer, starts, strict=False)]) for layer in matches]
    indices = torch.cat([torch.stack([image, *query, *order]).flatten(), torch.tensor(sizes)])
    indices = indices.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else indices.to(device)
    pairs = indices[: -len(sizes)].view(1 + 2 * len(matches), -1)
    order_on_device = pairs[1 + len(matches) :]
    labels = torch.cat([target["labels"] for target in targets])
    truth = torch.cat([target["boxes"] for target in targets]).float()
    return _Pairs(
        image=pairs[0],
        query=pairs[1 : 1 + len(matches)],
        label=labels[order_on_device],
        box=truth[order_on_device],
        sizes=indices[-len(sizes) :],
    )


def _giou_loss(predicted: Tensor, truth: Tensor) -> Tensor:
    """One minus generalised IoU, summed over pairs: two `[L, N, 4]` (cx, cy, w, h) to `[L]`."""
    return (1 - generalized_iou(cxcywh_to_xyxy(predicted), cxcywh_to_xyxy(truth))).sum(1)


@torch.no_grad()
def _errors(logits: Tensor, pairs: _Pairs) -> dict[str, Tensor]:
    """The two figures that people watch, from the last layer's logits `[B, Q, C + 1]`."""
    best = logits.argmax(-1)
    predicted = (best != logits.shape[-1] - 1).sum(1)
    # Among matched predictions, as the authors do, "no object" counts as a wrong answer, and where nothing
    # could be right the error is 100.
    right = (best[pairs.image, pairs.query[0]] == pairs.label[0]).sum()
    return {
        "class_error": 100 - 100 * right / max(1, len(pairs.image)),
        "cardinality_error": (predicted - pairs.sizes).abs().float().mean(),
    }


def last_layer(losses: dict[str, Tensor]) -> dict[str, Tensor]:
    """The figures of the last layer alone."""
    return {name: losses[name] for name in _LAST_LAYER}
