"""DETR: a backbone, a transformer and a prediction head for every object query."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from trainer.errors import TrainerError
from trainer.models.backbones.efficientnet_lite import LiteBackbone
from trainer.models.backbones.resnet import Backbone
from trainer.models.box_ops import cxcywh_to_xyxy
from trainer.models.detr.anchors import look_nearby, position_codes, spread_boxes
from trainer.models.detr.architectures import Architecture, architecture
from trainer.models.detr.position_encoding import SinePositionEncoding, position_encoding
from trainer.models.detr.pretrained import load_pretrained, norm_of
from trainer.models.detr.transformer import DecoderLayer, Transformer


class BoxHead(nn.Module):
    """A perceptron of three layers with ReLU between them (section 3.2, "Prediction FFNs")."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(dim, dim), nn.Linear(dim, dim), nn.Linear(dim, 4)])

    def forward(self, x: Tensor) -> Tensor:
        """Maps objects `[..., dim]` to box logits `[..., 4]`."""
        for layer in self.layers[:-1]:
            x = functional.relu(layer(x))
        return self.layers[-1](x)


class BackboneWithPosition(nn.Sequential):
    """The backbone as child "0" and the position encoding as child "1", which fixes the names of weights."""

    def __init__(self, backbone: nn.Module, position: nn.Module) -> None:
        super().__init__(backbone, position)

    def forward(self, images: Tensor, padding_mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:  # type: ignore[override]
        """Features `[B, C, h, w]`, mask `[B, h, w]` and positions `[B, dim, h, w]` of images `[B, 3, H, W]`."""
        features, mask = self[0](images, padding_mask)
        return features, mask, self[1](mask).to(features.dtype)


class DETR(nn.Module):
    """The detector of Carion et al. 2020, with the authors' names and shapes in its state dict."""

    def __init__(self, design: Architecture, num_classes: int, aux_loss: bool = False) -> None:
        """Builds the network with random weights.

        Args:
            design: the sizes.
            num_classes: C; the class head has C + 1 rows, of which the last is "no object".
            aux_loss: return the predictions of the earlier decoder layers as well.
        """
        super().__init__()
        self.transformer = Transformer(
            design.hidden_dim,
            design.nheads,
            design.enc_layers,
            design.dec_layers,
            design.dim_feedforward,
            design.dropout,
            design.pre_norm,
        )
        backbone = _backbone(design)
        self.class_embed = nn.Linear(design.hidden_dim, num_classes + 1)
        self.bbox_embed = BoxHead(design.hidden_dim)
        self.query_embed = nn.Embedding(design.num_queries, design.hidden_dim)
        self.query_anchor: nn.Embedding | None = None
        self.input_proj = nn.Conv2d(backbone.num_channels, design.hidden_dim, kernel_size=1)
        encoding = position_encoding(design.position_embedding, design.hidden_dim)
        self.backbone = BackboneWithPosition(backbone, encoding)
        if design.anchored:
            self._give_queries_places(SinePositionEncoding(design.hidden_dim))
        self.aux_loss = aux_loss
        self.recipe: dict[str, Any] = {}

    def _give_queries_places(self, encoding: SinePositionEncoding) -> None:
        """Adds a box to every query, which the box head's output is an offset from."""
        boxes = spread_boxes(self.query_embed.num_embeddings)
        self.query_anchor = nn.Embedding.from_pretrained(boxes.logit(), freeze=False)
        self.query_embed.weight.data.copy_(position_codes(encoding, boxes[:, :2]))
        for layer in self.transformer.decoder.layers:
            look_nearby(cast(DecoderLayer, layer).multihead_attn.in_proj_weight)
        for parameter in self.bbox_embed.layers[-1].parameters():
            nn.init.zeros_(parameter)

    def forward(self, images: Tensor, padding_mask: Tensor) -> dict[str, Any]:
        """Predicts a fixed number of objects for each image.

        Args:
            images: `[B, 3, H, W]`, normalised as for ImageNet, zero where padded.
            padding_mask: bool `[B, H, W]`, True where padded.

        Returns:
            `pred_logits` `[B, Q, C + 1]`; `pred_boxes` `[B, Q, 4]` as cx, cy, w, h in fractions of the
            unpadded image; with `aux_loss` also `aux_outputs`, a list of the same pair for every decoder
            layer but the last, first layer first.
        """
        features, mask, position = self.backbone(images, padding_mask)
        objects = self.transformer(self.input_proj(features), mask, self.query_embed.weight, position)
        if not self.aux_loss:
            objects = objects[-1:]
        # Without autocast these are float32 already. With it the sigmoid, and what the losses make of both,
        # would lose the last pixels of a box to its three digits.
        logits = self.class_embed(objects).float().unbind()
        offsets = self.bbox_embed(objects).float()
        if self.query_anchor is not None:
            offsets = offsets + self.query_anchor.weight
        boxes = offsets.sigmoid().unbind()
        outputs: dict[str, Any] = {"pred_logits": logits[-1], "pred_boxes": boxes[-1]}
        if self.aux_loss:
            outputs["aux_outputs"] = [
                {"pred_logits": layer_logits, "pred_boxes": layer_boxes}
                for layer_logits, layer_boxes in zip(logits[:-1], boxes[:-1], strict=True)
            ]
        return outputs


def _backbone(design: Architecture) -> Backbone | LiteBackbone:
    """The network that turns images into features, with random weights."""
    if design.backbone == "efficientnet_lite0":
        return LiteBackbone(design.last_layer, design.frozen_norm)
    return Backbone(design.backbone, design.last_layer, design.dilated, design.frozen_norm)


def build_model(
    name: str,
    num_classes: int,
    pretrained: str | None = None,
    *,
    class_names: Sequence[str] | None = None,
    num_queries: int | None = None,
    dropout: float | None = None,
    aux_loss: bool = False,
    frozen_norm: bool | None = None,
    sizes: Mapping[str, Any] | None = None,
) -> DETR:
    """Builds one of the named models.

    Args:
        name: one of `trainer.config.MODEL_NAMES`.
        num_classes: C, not counting "no object".
        pretrained: "coco" for the authors' weights, "imagenet" for backbone weights, the path of a checkpoint
            (in the authors' format or ours) or of the folder of a run, or None for random weights.
            Everything but the class head's rows and the number of queries must fit.
        class_names: by label. Rows of the pretrained class head are kept for the classes that it knows by
            name (case, spaces, hyphens and underscores aside) and made anew for others. None keeps all rows
            if there are as many, and otherwise only that of "no object".
        num_queries: how many objects an image can be given; None for the model's own number.
        dropout: None for the model's own.
        aux_loss: return the predictions of the earlier decoder layers as well.
        frozen_norm: keep batch normalisation and the first stage of the backbone fixed. None keeps them as
            the weights were made: fixed for "coco", "imagenet" and the authors' files, as the checkpoint
            says for ours, and the model's own habit without weights, which for the paper's models is fixed.
            To train one of those from random weights, pass False.
        sizes: other sizes than the model's own, under the names of `trainer.config.SIZES`; None is the model's.

    Raises:
        TrainerError: the name is unknown, the sizes contradict each other, the weights cannot be had or do not
            fit, or there are not `num_classes` class names.
    """
    if class_names is not None and len(class_names) != num_classes:
        raise TrainerError(f"{len(class_names)} class names were given for {num_classes} classes")
    design = architecture(name)
    if frozen_norm is None:
        frozen_norm = norm_of(pretrained, default=design.frozen_norm)
    other_sizes = {field: value for field, value in (sizes or {}).items() if value is not None}
    changes = {"num_queries": num_queries, "dropout": dropout, **other_sizes}
    given = {field: value for field, value in changes.items() if value is not None}
    design = replace(design, frozen_norm=frozen_norm, **given)
    try:
        model = DETR(design, num_classes, aux_loss)
    except ValueError as error:
        raise TrainerError(f"{name}: {error}") from None
    model.recipe = {
        "name": name,
        "num_classes": num_classes,
        "num_queries": design.num_queries,
        "dropout": design.dropout,
        "frozen_norm": design.frozen_norm,
        "sizes": other_sizes,
    }
    if pretrained is not None:
        load_pretrained(model, pretrained, name, design, class_names)
    return model


@torch.no_grad()
def post_process(outputs: dict[str, Any], target_sizes: Tensor) -> list[dict[str, Tensor]]:
    """Turns predictions into detections in pixels.

    Args:
        outputs: of the model, for B images.
        target_sizes: `[B, 2]`, height and width in pixels of the image to draw on.

    Returns:
        For each image `scores` `[Q]` (the probability of the best class other than "no object"), `labels`
        `[Q]` (its index) and `boxes` `[Q, 4]` (x0, y0, x1, y1 in pixels, which may reach over the edge).
    """
    scores, labels = outputs["pred_logits"].softmax(-1)[..., :-1].max(-1)
    height, width = target_sizes.to(outputs["pred_boxes"]).unbind(1)
    scale = torch.stack([width, height, width, height], dim=1)[:, None]
    boxes = cxcywh_to_xyxy(outputs["pred_boxes"]) * scale
    return [{"scores": s, "labels": c, "boxes": b} for s, c, b in zip(scores, labels, boxes, strict=True)]
