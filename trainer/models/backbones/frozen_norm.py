"""Batch normalisation that stays as it was pretrained, folded into the convolution before it."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

_EPS = 1e-5


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
