"""The convolutional backbone: a ResNet with torchvision's names, cut after one of its stages."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models import resnet

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

    def scale_and_shift(self) -> tuple[Tensor, Tensor]:
        """The map as a factor and a summand for each channel, two tensors `[C]`."""
        scale = self.weight * (self.running_var + _EPS).rsqrt()
        return scale, self.bias - self.running_mean * scale

    def forward(self, x: Tensor) -> Tensor:
        """Maps `[B, C, h, w]` to `[B, C, h, w]`."""
        scale, shift = self.scale_and_shift()
        return x * scale[:, None, None] + shift[:, None, None]


def convolve(x: Tensor, convolution: nn.Conv2d, norm: nn.Module) -> Tensor:
    """A convolution without bias and the normalisation behind it, `[B, C_in, H, W]` to `[B, C, h, w]`.

    A frozen normalisation is folded into the convolution: its factor into the weights and its summand into
    the bias, which costs a pass over the weights and saves several over the features. The convolution's own
    weights stay what is trained and saved; they get the gradient that they get from the two apart.
    """
    if not isinstance(norm, FrozenBatchNorm2d):
        return cast(Tensor, norm(convolution(x)))
    scale, shift = norm.scale_and_shift()
    weight = convolution.weight * scale[:, None, None, None]
    return functional.conv2d(
        x,
        weight,
        shift,
        convolution.stride,
        cast("tuple[int, int]", convolution.padding),
        convolution.dilation,
        convolution.groups,
    )


def mask_of(features: Tensor, padding_mask: Tensor) -> Tensor:
    """The padding `[B, H, W]` at the resolution of features `[B, C, h, w]`: bool `[B, h, w]`."""
    mask = functional.interpolate(padding_mask[:, None].float(), size=features.shape[-2:])
    return mask[:, 0].bool()


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

    def __init__(self, name: str, last_layer: str, dilated: bool, frozen_norm: bool) -> None:
        """Takes what `Backbone` takes."""
        super().__init__()
        block, depths = _RESNETS[name]
        whole = resnet.ResNet(
            block,
            depths,
            replace_stride_with_dilation=[False, False, dilated],
            norm_layer=FrozenBatchNorm2d if frozen_norm else nn.BatchNorm2d,
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
            frozen_norm: use `FrozenBatchNorm2d`, and leave the stem and "layer1" untrained as the authors
                do; otherwise batch normalisation and every convolution train.
        """
        super().__init__()
        self.body = Body(name, last_layer, dilated, frozen_norm)
        if frozen_norm:
            for stage in _STEM:
                self.body.get_submodule(stage).requires_grad_(False)
        convolutions = [m for m in self.body.get_submodule(last_layer).modules() if isinstance(m, nn.Conv2d)]
        self.num_channels = max(convolution.out_channels for convolution in convolutions)

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


class BackboneWithPosition(nn.Sequential):
    """The backbone as child "0" and the position encoding as child "1", which fixes the names of weights."""

    def __init__(self, backbone: nn.Module, position: nn.Module) -> None:
        super().__init__(backbone, position)

    def forward(self, images: Tensor, padding_mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:  # type: ignore[override]
        """Features `[B, C, h, w]`, mask `[B, h, w]` and positions `[B, dim, h, w]` of images `[B, 3, H, W]`."""
        features, mask = self[0](images, padding_mask)
        return features, mask, self[1](mask).to(features.dtype)
