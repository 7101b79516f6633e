"""Batch normalisation that stays as it was pretrained, folded into the convolution before it."""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn
from torch.nn import functional
from torchvision.ops import FrozenBatchNorm2d


def freeze_norms(module: nn.Module) -> None:
    """Replaces each batch normalisation in a module by one with fixed statistics and a fixed affine map.

    DETR trains with a few large images per device, too few to estimate statistics from (section 4).
    """
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d):
            frozen = FrozenBatchNorm2d(child.num_features, child.eps)
            frozen.load_state_dict(child.state_dict())
            setattr(module, name, frozen)
        else:
            freeze_norms(child)


def scale_and_shift(norm: FrozenBatchNorm2d) -> tuple[Tensor, Tensor]:
    """A frozen normalisation's map as a factor and a summand for each channel, two tensors `[C]`."""
    scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
    return scale, norm.bias - norm.running_mean * scale


def convolve(x: Tensor, convolution: nn.Conv2d, norm: nn.Module) -> Tensor:
    """A convolution without bias and the normalisation behind it, `[B, C_in, H, W]` to `[B, C, h, w]`.

    A frozen normalisation is folded into the convolution: its factor into the weights and its summand into
    the bias, which costs a pass over the weights and saves several over the features. The convolution's own
    weights stay what is trained and saved; they get the gradient that they get from the two apart.
    """
    if not isinstance(norm, FrozenBatchNorm2d):
        return cast(Tensor, norm(convolution(x)))
    scale, shift = scale_and_shift(norm)
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
