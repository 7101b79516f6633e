"""The second stage: queries look at the image and at one another, and correct their boxes and scores."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.ops import box_convert

from trainer.models.box_ops import iou
from trainer.models.ddq.deformable_attention import DeformableAttention, Shape

_PAIR_FEATURES = 7
_PAIR_HIDDEN = 32
# A box may change its side by at most this factor in one layer: beyond it, exp() would overflow.
_MAX_GROWTH = math.log(1000 / 16)


class Layer(NamedTuple):
    """What the queries say after a layer."""

    logits: Tensor
    """float32 `[B, Q, C]`."""
    boxes: Tensor
    """float32 `[B, Q, 4]`, cx, cy, w, h in px of the padded images."""


class Among(NamedTuple):
    """Which queries see one another: `groups` times `size` of them that follow each other, and none beyond its group.

    Most of the second stage's time went to pairs that were masked, before the groups were computed one by one.
    """

    groups: int
    size: int


class PairBias(nn.Module):
    """How much a query attends to another, from where their boxes lie and which of the two scores higher.

    This is what non-maximum suppression looks at, so a duplicate need not learn from features that it is one. All
    features are relative to the boxes' own sizes (Relation DETR, arXiv 2407.11699): nothing depends on the place in
    the image or on the scale.
    """

    def __init__(self, heads: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(_PAIR_FEATURES, _PAIR_HIDDEN), nn.SiLU(), nn.Linear(_PAIR_HIDDEN, heads))

    def forward(self, boxes: Tensor, scores: Tensor) -> Tensor:
        """Maps boxes `[B, Q, 4]` (cx, cy, w, h) and scores `[B, Q]` to a bias `[B, heads, Q, Q]`."""
        ours, theirs = boxes[:, :, None], boxes[:, None]
        corners = box_convert(boxes, "cxcywh", "xyxy")
        overlap = iou(corners[:, :, None], corners[:, None])
        better = (scores[:, None] > scores[:, :, None]).to(overlap)
        distance = ((theirs[..., :2] - ours[..., :2]).abs() / ours[..., 2:]).log1p()
        growth = (theirs[..., 2:] / ours[..., 2:]).log()
        pair = torch.stack([overlap, better, overlap * better], dim=-1)
        return self.layers(torch.cat([pair, distance, growth], dim=-1)).permute(0, 3, 1, 2)


class DecoderLayer(nn.Module):
    """Self-attention, deformable attention and a feed-forward network, each with its residual and normalisation."""

    def __init__(self, dim: int, num_classes: int, heads: int, levels: int, points: int, feedforward: int) -> None:
        super().__init__()
        self.heads = heads
        self.pair_bias = PairBias(heads)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.projection = nn.Linear(dim, dim)
        self.norm1 = nn.LayerNorm(dim)
        self.cross_attention = DeformableAttention(dim, heads, levels, points)
        self.norm2 = nn.LayerNorm(dim)
        self.feedforward = nn.Sequential(nn.Linear(dim, feedforward), nn.ReLU(), nn.Linear(feedforward, dim))
        self.norm3 = nn.LayerNorm(dim)
        self.class_embed = nn.Linear(dim, num_classes)
        self.box_embed = nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, 4))
        # Before training a layer leaves scores and boxes as the one before has them.
        for parameter in (*self.class_embed.parameters(), *self.box_embed[-1].parameters()):
            nn.init.zeros_(parameter)

    def forward(
        self,
        queries: Tensor,
        before: Layer,
        memory: Tensor,
        shapes: Sequence[Shape],
        size: Tensor,
        visible: Tensor,
        among: Sequence[Among],
    ) -> tuple[Tensor, Layer]:
        """One round.

        Args:
            queries: `[B, Q, dim]`.
            before: scores and boxes so far.
            memory: `[B, N, dim]`, the cells of the pyramid.
            shapes: of its levels.
            size: `[4]`, width, height, width, height of the padded images in px.
            visible: bool `[B, Q]`, False for a query that no other is to see.
            among: which queries see one another, in the order of the queries; they sum up to Q.

        Returns:
            The queries and what they say now.
        """
        logits, boxes = before.logits.detach(), before.boxes.detach()
        attended = self._self_attention(queries, boxes, logits.amax(-1), visible, among)
        queries = self.norm1(queries + attended)
        queries = self.norm2(queries + self.cross_attention(queries, boxes / size, memory, shapes))
        queries = self.norm3(queries + self.feedforward(queries))
        # float32 under autocast too: three digits would lose the last pixels of a box.
        after = Layer(logits + self.class_embed(queries).float(), refine(boxes, self.box_embed(queries).float()))
        return queries, after

    def _self_attention(
        self, queries: Tensor, boxes: Tensor, scores: Tensor, visible: Tensor, among: Sequence[Among]
    ) -> Tensor:
        batch, _, dim = queries.shape
        sizes = [groups * size for groups, size in among]
        rows = zip(*(values.split(sizes, dim=1) for values in (self.qkv(queries), boxes, scores, visible)), strict=True)
        mixed = []
        for (groups, size), values in zip(among, rows, strict=True):
            qkv, places, heights, seen = (part.reshape(batch * groups, size, *part.shape[2:]) for part in values)
            # Itself each query sees always: a softmax over nothing is not a number.
            others = ~torch.eye(size, dtype=torch.bool, device=queries.device)
            bias = self.pair_bias(places, heights).masked_fill((~seen[:, None] & others)[:, None], -torch.inf)
            parts = qkv.reshape(batch * groups, size, 3, self.heads, dim // self.heads).permute(2, 0, 3, 1, 4)
            query, key, value = parts.unbind()
            found = functional.scaled_dot_product_attention(query, key, value, attn_mask=bias.to(query.dtype))
            mixed.append(found.transpose(1, 2).reshape(batch, groups * size, dim))
        return self.projection(torch.cat(mixed, dim=1))


def refine(boxes: Tensor, deltas: Tensor) -> Tensor:
    """Moves and scales boxes in proportion to their own size, so that a correction means the same for all sizes.

    Args:
        boxes: `[..., 4]`, cx, cy, w, h.
        deltas: `[..., 4]`, the shift as a share of w and h, and the logarithm of the factor for w and h.

    Returns:
        `[..., 4]`, cx, cy, w, h.
    """
    centre, size = boxes[..., :2], boxes[..., 2:]
    growth = deltas[..., 2:].clamp(-_MAX_GROWTH, _MAX_GROWTH)
    return torch.cat([centre + deltas[..., :2] * size, size * growth.exp()], dim=-1)
