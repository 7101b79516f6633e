"""torch's multi-head attention (Vaswani et al. 2017, section 3.2.2), called so that it takes its fused kernels."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def attend(
    attention: nn.MultiheadAttention, query: Tensor, key: Tensor, value: Tensor, padding: Tensor | None = None
) -> Tensor:
    """Maps queries `[B, N, dim]` to `[B, N, dim]`.

    Args:
        attention: with `batch_first`.
        query: `[B, N, dim]`.
        key: `[B, M, dim]`.
        value: `[B, M, dim]`.
        padding: of `key_mask`, or None where every key counts.
    """
    # With the weights wanted, as is the default, torch computes them apart.
    attended: Tensor = attention(query, key, value, key_padding_mask=padding, need_weights=False)[0]
    return attended


def key_mask(padding: Tensor) -> Tensor | None:
    """The mask `[B, M]`, True for keys to ignore; None where nothing is padded.

    Only a CPU is asked whether anything is: the answer of a GPU would have to be waited for.
    """
    if padding.device.type != "cpu" or torch.compiler.is_exporting() or torch.jit.is_tracing():
        return padding
    return padding if padding.any() else None
