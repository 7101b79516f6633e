"""Faster R-CNN on two backbones: the baseline against which a DETR has to hold.

The network, its anchors, sampling and losses are torchvision's; what is here translates images, boxes and labels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import FeaturePyramidNetwork, FrozenBatchNorm2d, MultiScaleRoIAlign, box_convert
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from trainer.errors import TrainerError
from trainer.models.backbones.efficientnet_lite import PYRAMID_CHANNELS, LiteBackbone, pyramid
from trainer.models.backbones.frozen_norm import freeze_norms
from trainer.models.fasterrcnn import pretrained
from trainer.models.fasterrcnn.settings import FasterRCNNSettings
from trainer.models.interface import DetectionModel, Target, groups_without_decay

FIGURES = ("loss", "loss_classifier", "loss_box_reg", "loss_objectness", "loss_rpn_box_reg")
_STRIDE = 32
_KEPT_STAGES = ("stem", "stage1", "stage2", "conv1", "bn1", "layer1")

_LITE_DIM = 128


@dataclass
class Outputs:
    """What the network says about a batch."""

    sizes: Tensor
    """`[B, 2]`: height and width in px of the images without padding."""
    inputs: ImageList
    features: dict[str, Tensor]
    """Of the pyramid, finest first."""
    losses: dict[str, Tensor] | None = None
    """torchvision's, in training with targets."""
    detections: list[dict[str, Tensor]] | None = None
    """torchvision's, in evaluation, in px of the images as they were given."""


class LitePyramid(nn.Module):
    """EfficientNet-lite0 with a feature pyramid of strides 8, 16, 32 and 64."""

    out_channels = _LITE_DIM

    def __init__(self) -> None:
        super().__init__()
        self.body = LiteBackbone("stage7", frozen_norm=False).body
        self.fpn = FeaturePyramidNetwork(list(PYRAMID_CHANNELS), _LITE_DIM, extra_blocks=LastLevelMaxPool())

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Maps `[B, 3, H, W]` to four maps of `[B, 128, h, w]`, finest first."""
        return dict(self.fpn({str(number): level for number, level in enumerate(pyramid(self.body, images))}))


class FasterRCNNDetector(DetectionModel):
    """torchvision's Faster R-CNN behind this trainer's interface."""

    figures = FIGURES

    def __init__(self, name: str, num_classes: int, settings: FasterRCNNSettings) -> None:
        """Builds the network with random weights.

        Args:
            name: fasterrcnn_lite0 or fasterrcnn_resnet50.
            num_classes: C, not counting the background.
            settings: of the second stage.

        Raises:
            TrainerError: the name is not known.
        """
        super().__init__()
        # What the published weights take: (pixel - 127) / 128 for EfficientNet-lite0, ImageNet's for the ResNet.
        lite = name == "fasterrcnn_lite0"
        self.pixel_mean = (127.0, 127.0, 127.0) if lite else (123.675, 116.28, 103.53)
        self.pixel_std = (128.0, 128.0, 128.0) if lite else (58.395, 57.12, 57.375)
        network = _network(name, num_classes, settings)
        # Named as in torchvision, without its transform: images come resized, and are normalised here.
        self.backbone, self.rpn, self.roi_heads = network.backbone, network.rpn, network.roi_heads

    def freeze_norm(self, eps: float | None = None) -> None:
        """Keeps the backbone's batch normalisation and its first stages as they are, as torchvision does.

        Args:
            eps: of the normalisation; None leaves it.
        """
        body = self.backbone.body
        freeze_norms(body)
        for module in body.modules():
            if isinstance(module, FrozenBatchNorm2d) and eps is not None:
                module.eps = eps
        for name, stage in body.named_children():
            if name in _KEPT_STAGES:
                stage.requires_grad_(False)
        self.spec.update(frozen_norm=True, norm_eps=eps)

    def forward(self, images: Tensor, mask: Tensor, targets: Sequence[Target] | None = None) -> Outputs:
        """Measures the losses in training, and detects objects in evaluation.

        Args:
            images: uint8 `[B, 3, H, W]`.
            mask: bool `[B, H, W]`, True where an image is padded.
            targets: the images' objects, needed in training.
        """
        sizes = torch.stack([(~mask[:, :, 0]).sum(1), (~mask[:, 0]).sum(1)], dim=1)
        height, width = (-side % _STRIDE for side in images.shape[2:])
        pixels = functional.pad(self.normalize(images, mask), (0, width, 0, height))
        # A tenth less time for EfficientNet-lite0 on a CPU than channels first.
        features = self.backbone(pixels.contiguous(memory_format=torch.channels_last))
        inputs = ImageList(pixels, [(int(h), int(w)) for h, w in sizes.tolist()])
        # Boxes and overlaps need more digits than half precision has.
        with torch.autocast(images.device.type, enabled=False):
            features = {name: level.float() for name, level in features.items()}
            outputs = Outputs(sizes, inputs, features)
            if not self.training:
                proposals, _ = self.rpn(inputs, features)
                outputs.detections, _ = self.roi_heads(features, proposals, inputs.image_sizes)
            elif targets is not None:
                # Here, and not in `losses`: what has weights has to run within the call through DDP.
                outputs.losses = self._losses(outputs, targets)
        return outputs

    def _losses(self, outputs: Outputs, targets: Sequence[Target]) -> dict[str, Tensor]:
        """torchvision's four losses, each a mean over the anchors or proposals that it samples."""
        truth = [_truth(target, size) for target, size in zip(targets, outputs.sizes, strict=True)]
        proposals, losses = self.rpn(outputs.inputs, outputs.features, truth)
        _, of_heads = self.roi_heads(outputs.features, proposals, outputs.inputs.image_sizes, truth)
        return {**losses, **of_heads}

    def _validation_losses(self, outputs: Outputs, targets: Sequence[Target]) -> dict[str, Tensor]:
        """The losses that training would see, with samples that are the same each time.

        torchvision has none in evaluation mode. Its two heads hold nothing that a pass in training mode changes.
        """
        device = outputs.sizes.device
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            torch.manual_seed(0)
            try:
                self.rpn.train()
                self.roi_heads.train()
                return self._losses(outputs, targets)
            finally:
                self.train(False)

    def normalizers(self, targets: Sequence[Target]) -> Tensor:
        """The number of images `[1]`, to be summed over the parts of a batch and over processes."""
        return torch.tensor([float(len(targets))])

    def losses(self, outputs: Outputs, targets: Sequence[Target], normalizers: Tensor) -> dict[str, Tensor]:
        """torchvision's losses under the names of `FIGURES`, for this part's share of the step's images.

        torchvision averages over what it samples, as many anchors from every image: the losses of the parts add up to
        that of the batch but for images with fewer proposals than it asks for.

        Args:
            outputs: of `forward`; in training with the same targets.
            targets: of these images.
            normalizers: of the whole batch, averaged over the processes.
        """
        parts = outputs.losses if self.training else self._validation_losses(outputs, targets)
        if parts is None:
            raise ValueError("in training the losses need a forward pass with targets")
        share = len(targets) / normalizers[0]
        scaled = {name: parts[name] * share for name in FIGURES[1:]}
        return {"loss": torch.stack(list(scaled.values())).sum(), **scaled}

    @torch.no_grad()
    def detections(self, outputs: Outputs, sizes: Tensor) -> list[dict[str, Tensor]]:
        """Turns outputs into detections.

        Args:
            outputs: of `forward` in evaluation mode.
            sizes: `[B, 2]`, height and width in px of the images to draw on.

        Returns:
            For each image `scores` `[n]`, descending, `labels` `[n]` and `boxes` `[n, 4]` (x0, y0, x1, y1 in px,
            within the image).
        """
        if outputs.detections is None:
            raise ValueError("detections need outputs of a forward pass in evaluation mode")
        scale = (sizes.to(outputs.sizes.device) / outputs.sizes).flip(1).repeat(1, 2)
        return [
            {"scores": found["scores"], "labels": found["labels"] - 1, "boxes": found["boxes"] * factor}
            for found, factor in zip(outputs.detections, scale, strict=True)
        ]

    def parameter_groups(self, config: Any) -> list[dict[str, Any]]:
        """Parameters with their rates: the backbone's own, and no decay for norms and biases.

        The pyramid is new and learns with the heads.

        Args:
            config: with `lr`, `lr_backbone` and `weight_decay`.
        """
        return groups_without_decay(self, config, lambda name: name.startswith("backbone.body."))

    def freeze(self, part: str) -> None:
        """Keeps a part as it is; the pyramid is not part of a frozen `backbone`, as it has no weights to start from."""
        super().freeze("backbone.body" if part == "backbone" else part)

    def load_pretrained(self, source: str, class_names: Sequence[str] | None) -> None:
        """Loads initial weights, and keeps batch normalisation as it is in them; see `pretrained.load`."""
        pretrained.load(self, source, class_names)


def build(spec: Mapping[str, Any]) -> FasterRCNNDetector:
    """One of the named models with random weights.

    Args:
        spec: `model`, fasterrcnn_lite0 or fasterrcnn_resnet50; `num_classes`, not counting the background; any of
            `FasterRCNNSettings`; and `frozen_norm` and `norm_eps`, as `freeze_norm` leaves them.

    Raises:
        TrainerError: the name is unknown.
    """
    settings = FasterRCNNSettings(**{key: spec[key] for key in FasterRCNNSettings.model_fields if key in spec})
    model = FasterRCNNDetector(spec["model"], spec["num_classes"], settings)
    model.spec = {"model": spec["model"], "num_classes": spec["num_classes"], **settings.model_dump()}
    if spec.get("frozen_norm"):
        model.freeze_norm(spec.get("norm_eps"))
    return model


def _network(name: str, num_classes: int, settings: FasterRCNNSettings) -> FasterRCNN:
    """torchvision's module; label 0 is the background."""
    second_stage = {
        "box_score_thresh": settings.score_threshold,
        "box_nms_thresh": settings.nms_iou,
        "box_detections_per_img": settings.max_detections,
    }
    if name == "fasterrcnn_resnet50":
        backbone = resnet_fpn_backbone(
            backbone_name="resnet50", weights=None, norm_layer=nn.BatchNorm2d, trainable_layers=5
        )
        return FasterRCNN(backbone, num_classes + 1, **second_stage)
    if name == "fasterrcnn_lite0":
        # Anchors for images of some 256 px, two a cell and level; as few proposals as such images have room for.
        sizes = ((16, 24), (32, 48), (64, 96), (128, 192))
        return FasterRCNN(
            LitePyramid(),
            num_classes + 1,
            rpn_anchor_generator=AnchorGenerator(sizes, ((0.5, 1.0, 2.0),) * len(sizes)),
            box_roi_pool=MultiScaleRoIAlign(["0", "1", "2"], output_size=7, sampling_ratio=2),
            rpn_pre_nms_top_n_train=600,
            rpn_post_nms_top_n_train=300,
            rpn_pre_nms_top_n_test=600,
            rpn_post_nms_top_n_test=300,
            box_batch_size_per_image=128,
            **second_stage,
        )
    raise TrainerError(f"unknown model '{name}'; it can be fasterrcnn_lite0 or fasterrcnn_resnet50")


def _truth(target: Target, size: Tensor) -> dict[str, Tensor]:
    """An image's objects as torchvision names them: boxes in px, labels from 1."""
    boxes = box_convert(target["boxes"].float(), "cxcywh", "xyxy") * size.flip(0).repeat(2)
    solid = (boxes[:, 2:] > boxes[:, :2]).all(1)
    return {"boxes": boxes[solid], "labels": target["labels"][solid] + 1}
