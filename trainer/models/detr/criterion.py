"""The set prediction loss (section 3.1, equation 2, and appendix A.2)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.ops import box_convert

from trainer.models.box_ops import generalized_iou
from trainer.models.detr.matcher import HungarianMatcher, Match

FIGURES = ("loss", "loss_ce", "loss_bbox", "loss_giou", "class_error", "cardinality_error")
_LOSSES = ("loss_ce", "loss_bbox", "loss_giou")


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
        self.weights = dict(zip(_LOSSES, (ce_loss_coef, bbox_loss_coef, giou_loss_coef), strict=True))
        self.eos_coef = eos_coef
        class_weight = torch.ones(num_classes + 1)
        class_weight[-1] = eos_coef
        self.register_buffer("class_weight", class_weight, persistent=False)

    def normalizers(self, targets: Sequence[dict[str, Tensor]], queries: int) -> Tensor:
        """What the sums over a batch are divided by, float32 `[4]`, for `queries` predictions an image.

        Objects; class weight of all queries (1 for those that are matched, `eos_coef` for the others); matched queries;
        images. Computed for the whole of a batch, they make the losses of its parts add up to the loss of the batch,
        whether the parts are computed one after the other or by several processes.
        """
        sizes = [len(target["labels"]) for target in targets]
        matched = sum(min(size, queries) for size in sizes)
        class_weight = matched + (queries * len(sizes) - matched) * self.eos_coef
        return torch.tensor([sum(sizes), class_weight, matched, len(sizes)], dtype=torch.float32)

    def forward(
        self, outputs: dict[str, Any], targets: Sequence[dict[str, Tensor]], normalizers: Tensor
    ) -> dict[str, Tensor]:
        """The losses under the names in `FIGURES`, each a scalar.

        Args:
            outputs: of the model: `pred_logits` `[B, Q, C + 1]`, `pred_boxes` `[B, Q, 4]`, and perhaps
                `aux_outputs`.
            targets: for each image `labels` int64 `[n]` in 0..C-1 and `boxes` `[n, 4]` (cx, cy, w, h in
                fractions of the image).
            normalizers: of the batch that these images are a part of.

        Returns:
            `loss` and its three parts, weighted and summed over the decoder layers. The two box losses are sums over
            matched pairs divided by the number of objects (at least 1). And, of the last layer, for people to look
            at, `class_error` (percent of matched predictions with the wrong class) and `cardinality_error` (mean
            absolute difference in the number of objects).
        """
        # The last layer first: the errors are its own.
        layers = [outputs, *outputs.get("aux_outputs", [])]
        logits = torch.stack([layer["pred_logits"] for layer in layers]).float()
        boxes = torch.stack([layer["pred_boxes"] for layer in layers]).float()
        matches = self.matcher.match_layers(logits, boxes, targets)
        pairs = _gather(matches, targets, logits.device)
        layer_index = torch.arange(len(layers), device=logits.device)[:, None]
        matched_boxes = boxes[layer_index, pairs.image, pairs.query]

        objects, class_weight, matched, images = normalizers.unbind()
        objects = objects.clamp(min=1)
        parts = {
            "loss_ce": self._classification(logits, layer_index, pairs) / class_weight,
            "loss_bbox": (matched_boxes - pairs.box).abs().sum((1, 2)) / objects,
            "loss_giou": _giou_loss(matched_boxes, pairs.box) / objects,
        }
        weighted = {name: self.weights[name] * value.sum() for name, value in parts.items()}
        wrong, miscounted = _errors(logits[0], pairs)
        return {
            "loss": torch.stack(list(weighted.values())).sum(),
            **weighted,
            "class_error": 100 * wrong / matched.clamp(min=1),
            "cardinality_error": miscounted / images,
        }

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


def _gather(matches: list[list[Match]], targets: Sequence[dict[str, Tensor]], device: torch.device) -> _Pairs:
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
    return (1 - generalized_iou(*(box_convert(boxes, "cxcywh", "xyxy") for boxes in (predicted, truth)))).sum(1)


@torch.no_grad()
def _errors(logits: Tensor, pairs: _Pairs) -> tuple[Tensor, Tensor]:
    """Wrongly classified pairs, and miscounted objects, of the last layer's logits `[B, Q, C + 1]`."""
    best = logits.argmax(-1)
    predicted = (best != logits.shape[-1] - 1).sum(1)
    # Among matched predictions, as the authors do, "no object" counts as a wrong answer.
    wrong = (best[pairs.image, pairs.query[0]] != pairs.label[0]).sum()
    return wrong, (predicted - pairs.sizes).abs().sum().float()
