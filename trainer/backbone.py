"""The convolutional backbone: a torchvision ResNet cut after one of its stages."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional

from trainer.position import SinePositionEncoding

_EPS = 1e-5
_STEM = ("conv1", "bn1", "layer1")


class FrozenBatchNorm2d(nn.Module):
    """Batch normalisation with fixed statistics and a fixed affine map, all four of them buffers.

    DETR trains with a few large images a device, too few to estimate statistics from (section 4).
    """

    weight: Tensor
    bias: Tensor
    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("weight", torch.ones(channels))
        self.register_buffer("bias", torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        # A trained BatchNorm2d counts its batches; a frozen one has no use for the count.
        state_dict.pop(prefix + "num_batches_tracked", None)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def forward(self, x: Tensor) -> Tensor:
        """Maps `[B, C, h, w]` to `[B, C, h, w]`."""
        scale = self.weight * (self.running_var + _EPS).rsqrt()
        shift = self.bias - self.running_mean * scale
        return x * scale[:, None, None] + shift[:, None, None]


class Backbone(nn.Module):
    """A ResNet up to and including one stage, whose modules keep torchvision's names under `body`."""

    def __init__(self, name: str, last_layer: str, dilated: bool, frozen_norm: bool) -> None:
        """Builds the network with torchvision's random initial weights.

        Args:
            name: of a torchvision ResNet, such as "resnet50".
            last_layer: the stage to stop after, "layer1" to "layer4".
            dilated: replace the stride of "layer4" with dilation.
            frozen_norm: use `FrozenBatchNorm2d`, and leave the stem and "layer1" untrained as the authors
                do; otherwise batch normalisation and every convolution train.
        """
        super().__init__()
        resnet = torchvision.models.get_model(
            name,
            weights=None,
            norm_layer=FrozenBatchNorm2d if frozen_norm else nn.BatchNorm2d,
            replace_stride_with_dilation=[False, False, dilated],
        )
        stages: OrderedDict[str, nn.Module] = OrderedDict()
        for stage, module in resnet.named_children():
            stages[stage] = module
            if stage == last_layer:
                break
        self.body = nn.Sequential(stages)
        if frozen_norm:
            for stage in _STEM:
                stages[stage].requires_grad_(False)
        convolutions = [m for m in stages[last_layer].modules() if isinstance(m, nn.Conv2d)]
        self.num_channels = max(convolution.out_channels for convolution in convolutions)

    def forward(self, images: Tensor, padding_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Features and the mask at their resolution.

        Args:
            images: `[B, 3, H, W]`, normalised as for ImageNet.
            padding_mask: bool `[B, H, W]`, True where padded.

        Returns:
            Features `[B, num_channels, h, w]` and a bool mask `[B, h, w]`.
        """
        features = self.body(images)
        mask = functional.interpolate(padding_mask[:, None].float(), size=features.shape[-2:])
        return features, mask[:, 0].bool()


class BackboneWithPosition(nn.Sequential):
    """The backbone as child "0" and the position encoding as child "1", which fixes the names of weights."""

    def __init__(self, backbone: Backbone, position: SinePositionEncoding) -> None:
        super().__init__(backbone, position)
        self.num_channels = backbone.num_channels

    def forward(self, images: Tensor, padding_mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:  # type: ignore[override]
        """Features `[B, C, h, w]`, mask `[B, h, w]` and positions `[B, dim, h, w]` of images `[B, 3, H, W]`."""
        features, mask = self[0](images, padding_mask)
        return features, mask, self[1](mask).to(features.dtype)
