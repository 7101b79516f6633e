"""DETR: a backbone, a transformer and a prediction head for every object query."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.ops import box_convert

from trainer.data.batch import MEAN, STD
from trainer.errors import TrainerError
from trainer.models.backbones.efficientnet_lite import LiteBackbone
from trainer.models.backbones.resnet import Backbone
from trainer.models.detr import pretrained
from trainer.models.detr.anchors import look_nearby, position_codes, spread_boxes
from trainer.models.detr.architectures import ARCHITECTURES, Architecture
from trainer.models.detr.criterion import FIGURES, SetCriterion
from trainer.models.detr.family import DETR as FAMILY
from trainer.models.detr.matcher import HungarianMatcher
from trainer.models.detr.position_encoding import SinePositionEncoding, position_encoding
from trainer.models.detr.settings import SIZES, DetrSettings
from trainer.models.detr.transformer import DecoderLayer, Transformer
from trainer.models.interface import DetectionModel, Target


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


class DETR(DetectionModel):
    """The detector of Carion et al. 2020, with the authors' names and shapes in its state dict."""

    figures = FIGURES
    pixel_mean = (255 * MEAN[0], 255 * MEAN[1], 255 * MEAN[2])
    pixel_std = (255 * STD[0], 255 * STD[1], 255 * STD[2])

    def __init__(self, design: Architecture, num_classes: int, settings: DetrSettings, frozen_norm: bool) -> None:
        """Builds the network with random weights.

        Args:
            design: the sizes.
            num_classes: C; the class head has C + 1 rows, of which the last is "no object".
            settings: for losses and matching; with `aux_loss`, the earlier decoder layers learn as well.
            frozen_norm: keep batch normalisation and the first stage of the backbone fixed.
        """
        super().__init__()
        self.design = design
        self.transformer = Transformer(
            design.hidden_dim,
            design.nheads,
            design.enc_layers,
            design.dec_layers,
            design.dim_feedforward,
            settings.dropout,
            design.pre_norm,
        )
        backbone: Backbone | LiteBackbone
        if design.backbone == "efficientnet_lite0":
            backbone = LiteBackbone(design.last_layer, frozen_norm)
        else:
            backbone = Backbone(design.backbone, design.last_layer, design.dilated, frozen_norm)
        self.class_embed = nn.Linear(design.hidden_dim, num_classes + 1)
        self.bbox_embed = BoxHead(design.hidden_dim)
        self.query_embed = nn.Embedding(settings.num_queries, design.hidden_dim)
        self.query_anchor: nn.Embedding | None = None
        self.input_proj = nn.Conv2d(backbone.num_channels, design.hidden_dim, kernel_size=1)
        encoding = position_encoding(design.position_embedding, design.hidden_dim)
        self.backbone = BackboneWithPosition(backbone, encoding)
        if design.anchored:
            self.init_query_anchors(SinePositionEncoding(design.hidden_dim))
        self.aux_loss = settings.aux_loss
        self.criterion = SetCriterion(
            num_classes,
            HungarianMatcher(settings.set_cost_class, settings.set_cost_bbox, settings.set_cost_giou),
            ce_loss_coef=settings.ce_loss_coef,
            bbox_loss_coef=settings.bbox_loss_coef,
            giou_loss_coef=settings.giou_loss_coef,
            eos_coef=settings.eos_coef,
        )

    def init_query_anchors(self, encoding: SinePositionEncoding) -> None:
        """Gives every query a box, which the box head's output is an offset from."""
        boxes = spread_boxes(self.query_embed.num_embeddings)
        self.query_anchor = nn.Embedding.from_pretrained(boxes.logit(), freeze=False)
        self.query_embed.weight.data.copy_(position_codes(encoding, boxes[:, :2]))
        for layer in self.transformer.decoder.layers:
            look_nearby(cast(DecoderLayer, layer).multihead_attn.in_proj_weight)
        for parameter in self.bbox_embed.layers[-1].parameters():
            nn.init.zeros_(parameter)

    def forward(self, images: Tensor, mask: Tensor, targets: Sequence[Target] | None = None) -> dict[str, Any]:
        """Predicts a fixed number of objects for each image.

        Args:
            images: uint8 `[B, 3, H, W]`.
            mask: bool `[B, H, W]`, True where padded.
            targets: not used.

        Returns:
            `pred_logits` `[B, Q, C + 1]`; `pred_boxes` `[B, Q, 4]` as cx, cy, w, h in fractions of the
            unpadded image; with `aux_loss` also `aux_outputs`, a list of the same pair for every decoder
            layer but the last, first layer first.
        """
        features, mask, position = self.backbone(self.normalize(images, mask), mask)
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

    def normalizers(self, targets: Sequence[Target]) -> Tensor:
        """float32 `[4]`; see `SetCriterion.normalizers`."""
        return self.criterion.normalizers(targets, self.query_embed.num_embeddings)

    def losses(self, outputs: dict[str, Any], targets: Sequence[Target], normalizers: Tensor) -> dict[str, Tensor]:
        """The figures of `SetCriterion`."""
        losses: dict[str, Tensor] = self.criterion(outputs, targets, normalizers)
        return losses

    def detections(self, outputs: dict[str, Any], sizes: Tensor) -> list[dict[str, Tensor]]:
        """One detection for each query; see `post_process`."""
        return post_process(outputs, sizes)

    def decode(self, outputs: dict[str, Any], sizes: Tensor) -> dict[str, Tensor]:
        """One detection for each query; see `decode`."""
        return decode(outputs, sizes)

    def feature_module(self) -> nn.Module:
        """The backbone without the position encoding, which is a map as well."""
        return self.backbone[0]

    def load_pretrained(self, source: str, class_names: Sequence[str] | None) -> None:
        """Loads weights, and keeps batch normalisation fixed where it was in them; see `pretrained.load`."""
        if pretrained.load(self, source, self.spec["model"], self.design, class_names):
            cast("Backbone | LiteBackbone", self.backbone[0]).freeze_norm()
            self.spec["frozen_norm"] = True


def build(spec: Mapping[str, Any]) -> DETR:
    """One of the named models with random weights.

    Args:
        spec: `model`, a name in `ARCHITECTURES`; `num_classes`, not counting "no object"; any of `DetrSettings`, else
            the model's defaults; and `frozen_norm`, whether batch normalisation and the backbone's first stages are
            fixed (default False, as there is nothing worth keeping in random ones).

    Raises:
        TrainerError: the name is unknown, or the sizes contradict each other.
    """
    name, num_classes = spec["model"], spec["num_classes"]
    if name not in ARCHITECTURES:
        raise TrainerError(f"unknown model '{name}'; it can be {', '.join(ARCHITECTURES)}")
    known = DetrSettings.model_fields
    info = FAMILY.info(name)
    defaults = {} if info is None else info.defaults
    settings = DetrSettings(**{key: value for key, value in {**defaults, **spec}.items() if key in known})
    sizes = {size: getattr(settings, size) for size in SIZES if getattr(settings, size) is not None}
    design = replace(ARCHITECTURES[name], **sizes)
    if design.hidden_dim % design.nheads:
        raise TrainerError(f"{name}: nheads {design.nheads} does not divide hidden_dim {design.hidden_dim}")
    frozen_norm = bool(spec.get("frozen_norm", False))
    try:
        model = DETR(design, num_classes, settings, frozen_norm)
    except ValueError as error:
        raise TrainerError(f"{name}: {error}") from None
    model.spec = {"model": name, "num_classes": num_classes, **settings.model_dump(), "frozen_norm": frozen_norm}
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
    found = decode(outputs, target_sizes)
    return [{name: values[image] for name, values in found.items()} for image in range(len(target_sizes))]


def decode(outputs: dict[str, Any], target_sizes: Tensor) -> dict[str, Tensor]:
    """As `post_process`, with the images of a batch together: `[B, Q]` and `[B, Q, 4]`."""
    scores, labels = outputs["pred_logits"].softmax(-1)[..., :-1].max(-1)
    height, width = target_sizes.to(outputs["pred_boxes"]).unbind(1)
    scale = torch.stack([width, height, width, height], dim=1)[:, None]
    boxes = box_convert(outputs["pred_boxes"], "cxcywh", "xyxy") * scale
    return {"scores": scores, "labels": labels, "boxes": boxes}
