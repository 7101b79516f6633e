"""The feature pyramid: coarse features flow down to the fine levels, fine ones back up (PANet, arXiv 1803.01534)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional


class ChannelNorm(nn.LayerNorm):
    """Layer normalisation over the channels of each cell of `[B, C, h, w]`.

    Neither the other images of a batch nor its padding change what a cell becomes, so small batches, accumulated
    gradients and several processes all train the same network.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Maps `[B, C, h, w]` to the same shape."""
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class ConvBlock(nn.Sequential):
    """A convolution, its normalisation and SiLU."""

    def __init__(self, into: int, out: int, kernel: int, stride: int = 1) -> None:
        super().__init__(
            nn.Conv2d(into, out, kernel, stride, padding=kernel // 2, bias=False), ChannelNorm(out), nn.SiLU()
        )


class PyramidNeck(nn.Module):
    """Three levels of features of one width, each of which has seen the two others."""

    def __init__(self, channels: Sequence[int], dim: int) -> None:
        """Takes the backbone's channels, finest level first, and the pyramid's."""
        super().__init__()
        levels = len(channels)
        self.lateral = nn.ModuleList(
            nn.Sequential(nn.Conv2d(into, dim, 1, bias=False), ChannelNorm(dim)) for into in channels
        )
        self.top_down = nn.ModuleList(ConvBlock(dim, dim, 3) for _ in range(levels - 1))
        self.down = nn.ModuleList(ConvBlock(dim, dim, 3, stride=2) for _ in range(levels - 1))
        self.bottom_up = nn.ModuleList(ConvBlock(dim, dim, 3) for _ in range(levels - 1))

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Maps features `[B, C_l, h_l, w_l]`, each half the size of the one before, to `[B, dim, h_l, w_l]`."""
        levels = [lateral(feature) for lateral, feature in zip(self.lateral, features, strict=True)]
        for index in reversed(range(len(levels) - 1)):
            above = functional.interpolate(levels[index + 1], scale_factor=2.0, mode="nearest")
            levels[index] = levels[index] + self.top_down[index](levels[index] + above)
        for index in range(len(levels) - 1):
            merged = levels[index + 1] + self.down[index](levels[index])
            levels[index + 1] = merged + self.bottom_up[index](merged)
        return levels
