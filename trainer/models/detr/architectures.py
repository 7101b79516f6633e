"""The sizes behind each model's name."""

from __future__ import annotations

from dataclasses import dataclass

_HUB = "https://dl.fbaipublicfiles.com/detr/"


@dataclass(frozen=True)
class Architecture:
    """The sizes of a DETR; the field defaults are those of the paper (section 4 and appendix A.4)."""

    backbone: str
    """Name of a torchvision ResNet, or "efficientnet_lite0"."""
    last_layer: str = "layer4"
    """Stage whose output feeds the transformer."""
    dilated: bool = False
    """Dilation in place of stride in the last stage ("DC5")."""
    hidden_dim: int = 256
    nheads: int = 8
    enc_layers: int = 6
    dec_layers: int = 6
    dim_feedforward: int = 2048
    dropout: float = 0.1
    pre_norm: bool = False
    """Normalise before each sub-layer (trains from random weights without a long warm-up) or after it."""
    position_embedding: str = "sine"
    """Of the feature cells: "sine", or "learned" for up to 50 of them a side."""
    num_queries: int = 100
    anchored: bool = False
    """Give every object query a box to predict from, which takes a small model far fewer steps to learn."""
    coco_weights: str | None = None
    """Where the authors publish the weights trained on COCO (91 class indices)."""


ARCHITECTURES: dict[str, Architecture] = {
    "detr_tiny": Architecture(
        backbone="resnet18",
        last_layer="layer2",
        hidden_dim=128,
        enc_layers=2,
        dec_layers=3,
        dim_feedforward=256,
        dropout=0.0,
        pre_norm=True,
        num_queries=20,
    ),
    "detr_lite0": Architecture(
        backbone="efficientnet_lite0",
        last_layer="stage5",
        hidden_dim=128,
        enc_layers=2,
        dec_layers=3,
        dim_feedforward=512,
        dropout=0.0,
        pre_norm=True,
        anchored=True,
    ),
    "detr_resnet50": Architecture("resnet50", coco_weights=_HUB + "detr-r50-e632da11.pth"),
    "detr_resnet50_dc5": Architecture("resnet50", dilated=True, coco_weights=_HUB + "detr-r50-dc5-f0fb7ef5.pth"),
    "detr_resnet101": Architecture("resnet101", coco_weights=_HUB + "detr-r101-2c7b67e5.pth"),
    "detr_resnet101_dc5": Architecture("resnet101", dilated=True, coco_weights=_HUB + "detr-r101-dc5-a2e86def.pth"),
}
