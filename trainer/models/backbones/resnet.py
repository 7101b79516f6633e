"""The convolutional backbone: a ResNet with torchvision's names, cut after one of its stages."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torchvision.models import resnet

from trainer.models.backbones.frozen_norm import convolve, freeze_norms, mask_of

_STEM = ("conv1", "bn1", "layer1")


class BasicBlock(resnet.BasicBlock):
    """torchvision's block of two convolutions, each taken together with its normalisation."""

    def forward(self, x: Tensor) -> Tensor:
        """Maps `[B, C_in, H, W]` to `[B, C, h, w]`."""
        out = self.relu(convolve(x, self.conv1, self.bn1))
        out = convolve(out, self.conv2, self.bn2)
        out += x if self.downsample is None else convolve(x, *self.downsample)
        return self.relu(out)


class Bottleneck(resnet.Bottleneck):
    """torchvision's block of three convolutions, each taken together with its normalisation."""

    def forward(self, x: Tensor) -> Tensor:
        """Maps `[B, C_in, H, W]` to `[B, C, h, w]`."""
        out = self.relu(convolve(x, self.conv1, self.bn1))
        out = self.relu(convolve(out, self.conv2, self.bn2))
        out = convolve(out, self.conv3, self.bn3)
        out += x if self.downsample is None else convolve(x, *self.downsample)
        return self.relu(out)


# He et al. 2016, table 1: blocks in each of the four stages.
_RESNETS: dict[str, tuple[type[BasicBlock | Bottleneck], list[int]]] = {
    "resnet18": (BasicBlock, [2, 2, 2, 2]),
    "resnet34": (BasicBlock, [3, 4, 6, 3]),
    "resnet50": (Bottleneck, [3, 4, 6, 3]),
    "resnet101": (Bottleneck, [3, 4, 23, 3]),
}


class Body(nn.Sequential):
    """The modules of a ResNet up to and including one stage, under torchvision's names."""

    def __init__(self, name: str, last_layer: str, dilated: bool) -> None:
        """Takes what `Backbone` takes."""
        super().__init__()
        block, depths = _RESNETS[name]
        whole = resnet.ResNet(
            block,
            depths,
            replace_stride_with_dilation=[False, False, dilated],
        )
        for stage, module in whole.named_children():
            self.add_module(stage, module)
            if stage == last_layer:
                break

    def forward(self, images: Tensor) -> Tensor:
        """Maps `[B, 3, H, W]` to `[B, C, h, w]`."""
        convolution, norm, *rest = self
        x = convolve(images, cast(nn.Conv2d, convolution), norm)
        for stage in rest:
            x = stage(x)
        return x


class Backbone(nn.Module):
    """A ResNet up to and including one stage, whose modules keep torchvision's names under `body`."""

    def __init__(self, name: str, last_layer: str, dilated: bool, frozen_norm: bool) -> None:
        """Builds the network with torchvision's random initial weights.

        Args:
            name: of a ResNet, such as "resnet50".
            last_layer: the stage to stop after, "layer1" to "layer4".
            dilated: replace the stride of "layer4" with dilation.
            frozen_norm: as after `freeze_norm`; otherwise batch normalisation and every convolution train.
        """
        super().__init__()
        self.body = Body(name, last_layer, dilated)
        if frozen_norm:
            self.freeze_norm()
        convolutions = [m for m in self.body.get_submodule(last_layer).modules() if isinstance(m, nn.Conv2d)]
        self.num_channels = max(convolution.out_channels for convolution in convolutions)

    def freeze_norm(self) -> None:
        """Keeps batch normalisation, the stem and "layer1" as they are, as the authors do with pretrained weights."""
        freeze_norms(self.body)
        for stage in _STEM:
            self.body.get_submodule(stage).requires_grad_(False)

    def forward(self, images: Tensor, padding_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Features and the mask at their resolution.

        Args:
            images: `[B, 3, H, W]`, normalised as for ImageNet.
            padding_mask: bool `[B, H, W]`, True where padded.

        Returns:
            Features `[B, num_channels, h, w]` and a bool mask `[B, h, w]`.
        """
        # Channels last in memory, which every layer behind then keeps to: convolutions and pooling are fastest so.
        features = self.body(images.contiguous(memory_format=torch.channels_last))
        return features, mask_of(features, padding_mask)
