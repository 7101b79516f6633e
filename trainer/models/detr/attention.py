"""Multi-head attention (Vaswani et al. 2017, section 3.2.2) under the parameter names of torch's own."""

from __future__ import annotations

import math
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from trainer.models.detr.dropout import Dropout


class MultiheadAttention(nn.Module):
    """Attention of several heads, of which each sees a part of the projected features.

    `nn.MultiheadAttention` leaves torch's fused kernels, or projects queries and keys apart where they are the
    same, in just the ways that DETR calls it.
    """

    def __init__(self, dim: int, heads: int, dropout: float) -> None:
        """Takes the width of all features, the number of heads and the dropout of attention weights.

        Raises:
            ValueError: the heads do not divide the width.
        """
        super().__init__()
        if dim % heads:
            raise ValueError(f"{heads} heads cannot share a width of {dim} evenly")
        self.heads = heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * dim, dim))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * dim))
        self.out_proj = nn.Linear(dim, dim)
        self.dropout = Dropout(dropout)
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.zeros_(self.out_proj.bias)

    def forward(self, query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None = None) -> Tensor:
        """Maps queries `[B, N, dim]` to `[B, N, dim]`.

        Args:
            query: `[B, N, dim]`.
            key: `[B, M, dim]`; the very tensor `query` where they are the same, which saves a projection.
            value: `[B, M, dim]`.
            bias: of `padding_bias`, or None where every key counts.
        """
        q, k, v = (self._split(projected) for projected in self._project(query, key, value))
        if self.training and self.dropout.p and q.device.type == "cpu":
            attended = self._attend(q, k, v, bias)
        else:
            p = self.dropout.p if self.training else 0.0
            attended = functional.scaled_dot_product_attention(q, k, v, bias, p)
        return cast(Tensor, self.out_proj(attended.transpose(1, 2).flatten(2)))

    def _project(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        weight, bias, dim = self.in_proj_weight, self.in_proj_bias, query.shape[-1]
        v = functional.linear(value, weight[2 * dim :], bias[2 * dim :])
        if query is key:
            q, k = functional.linear(query, weight[: 2 * dim], bias[: 2 * dim]).split(dim, dim=-1)
        else:
            q = functional.linear(query, weight[:dim], bias[:dim])
            k = functional.linear(key, weight[dim : 2 * dim], bias[dim : 2 * dim])
        return q, k, v

    def _split(self, x: Tensor) -> Tensor:
        """`[B, N, dim]` as `[B, heads, N, dim / heads]`."""
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
        """What the fused kernel computes, with the dropout that is cheap on a CPU, where none is fused."""
        scores = (q / math.sqrt(q.shape[-1])) @ k.transpose(-2, -1)
        if bias is not None:
            scores = scores + bias
        return self.dropout(scores.softmax(-1)) @ v


def padding_bias(padding: Tensor, dtype: torch.dtype) -> Tensor | None:
    """What to add to attention scores so that padded keys count for nothing.

    Args:
        padding: bool `[B, M]`, True where padded.
        dtype: of the scores.

    Returns:
        `[B, 1, 1, M]`, 0 or minus infinity; None where nothing is padded, which only a CPU is asked: the
        answer of a GPU would have to be waited for.
    """
    if padding.device.type == "cpu" and not padding.any():
        return None
    bias = torch.zeros(padding.shape, dtype=dtype, device=padding.device)
    return bias.masked_fill(padding, -math.inf)[:, None, None]
