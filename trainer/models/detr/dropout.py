"""Dropout whose mask is cheap on a CPU too."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

_STEPS = 2**16


class Dropout(nn.Module):
    """Zeroes elements with a probability and scales up the others, in training mode only.

    torch draws a 64-bit random number for every element, one after the other, which on a CPU takes as long as
    a tenth of DETR's whole training step. Here a CPU draws 16 bits for each, so that the probability is a
    multiple of 1 / 65536; other devices do as torch does.
    """

    def __init__(self, p: float) -> None:
        """Takes the probability of a zero, in [0, 1)."""
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        """Maps a tensor of any shape to one of the same shape."""
        if not self.training or self.p == 0:
            return x
        if x.device.type != "cpu":
            return functional.dropout(x, self.p)
        return x * _factors(x, min(round(self.p * _STEPS), _STEPS - 1))

    def extra_repr(self) -> str:
        """The probability, for people to read."""
        return f"p={self.p}"


def _factors(x: Tensor, dropped: int) -> Tensor:
    """Zeros with probability `dropped` / 65536 and otherwise what keeps the mean, shaped and typed as `x`."""
    draws = torch.empty(math.ceil(x.numel() / 4), dtype=torch.int64).random_(-(2**63), None)
    uniform = draws.view(torch.int16)[: x.numel()].view(x.shape)
    return (uniform >= dropped - _STEPS // 2).to(x.dtype).mul_(_STEPS / (_STEPS - dropped))
