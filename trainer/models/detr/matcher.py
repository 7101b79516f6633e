"""The bipartite matching between predictions and ground truth (section 3.1, equation 1)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from torchvision.ops import box_convert

from trainer.models.box_ops import generalized_iou

Match = tuple[Tensor, Tensor]


class HungarianMatcher(nn.Module):
    """Gives every ground-truth object the prediction that costs least, one to one.

    The cost of a pair is, weighted, minus the probability of the object's class, the L1 distance of the
    boxes and minus their generalised IoU.
    """

    def __init__(self, cost_class: float = 1, cost_bbox: float = 5, cost_giou: float = 2) -> None:
        super().__init__()
        self.cost_class = cost_class
        self.cost_bbox = cost_bbox
        self.cost_giou = cost_giou

    def forward(self, outputs: dict[str, Any], targets: Sequence[dict[str, Tensor]]) -> list[Match]:
        """Matches the last layer's predictions.

        Args:
            outputs: `pred_logits` `[B, Q, C + 1]` and `pred_boxes` `[B, Q, 4]` (cx, cy, w, h).
            targets: for each image `labels` `[n]` in 0..C-1 and `boxes` `[n, 4]` in the same form.

        Returns:
            For each image the indices of the predictions, ascending, and of their objects: two int64 CPU
            tensors `[min(Q, n)]`.
        """
        return self.match_layers(outputs["pred_logits"][None], outputs["pred_boxes"][None], targets)[0]

    @torch.no_grad()
    def match_layers(self, logits: Tensor, boxes: Tensor, targets: Sequence[dict[str, Tensor]]) -> list[list[Match]]:
        """Matches the predictions of L decoder layers with a single copy from the device.

        Args:
            logits: `[L, B, Q, C + 1]`.
            boxes: `[L, B, Q, 4]` (cx, cy, w, h).
            targets: as in `forward`.

        Returns:
            For each layer what `forward` returns.
        """
        sizes = [len(target["labels"]) for target in targets]
        cost = self._cost(logits, boxes, targets).cpu().numpy()
        return [[_assign(image[:, :size]) for image, size in zip(layer, sizes, strict=True)] for layer in cost]

    def _cost(self, logits: Tensor, boxes: Tensor, targets: Sequence[dict[str, Tensor]]) -> Tensor:
        """Costs `[L, B, Q, T]`, T being the most objects that an image has; the rest is padding."""
        labels = pad_sequence([target["labels"] for target in targets], batch_first=True)
        truth = pad_sequence([target["boxes"] for target in targets], batch_first=True).to(boxes)
        layers, _, queries = logits.shape[:3]
        wanted = labels[None, :, None].expand(layers, -1, queries, -1)
        probability = logits.float().softmax(-1).gather(-1, wanted)
        predicted, truth = boxes.float()[:, :, :, None], truth.float()[None, :, None]
        distance = (predicted - truth).abs().sum(-1)
        overlap = generalized_iou(*(box_convert(boxes, "cxcywh", "xyxy") for boxes in (predicted, truth)))
        cost = self.cost_bbox * distance - self.cost_class * probability - self.cost_giou * overlap
        # A model that has diverged is told by its loss; the assignment only must not choke on it first.
        return torch.nan_to_num(cost, nan=1e6, posinf=1e6, neginf=-1e6)


def _assign(cost: Any) -> Match:
    """The cheapest one-to-one assignment for an array `[Q, n]`."""
    rows, columns = linear_sum_assignment(cost)
    return torch.as_tensor(rows, dtype=torch.int64), torch.as_tensor(columns, dtype=torch.int64)
