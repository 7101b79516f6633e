"""The encoder-decoder transformer of DETR (section 3.2 and appendix A.3, figure 10).

It differs from the original transformer in that positions are added to the queries and keys of every
attention rather than once to the input, and that the decoder's output objects are decoded in parallel.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from trainer.models.detr.attention import attend, key_mask


class Layer(nn.Module):
    """What encoder and decoder layers share: self-attention, two linear maps, two norms and dropout."""

    def __init__(self, dim: int, heads: int, feedforward: int, dropout: float, pre_norm: bool) -> None:
        super().__init__()
        self.self_attn = nn.MultiheadAttention(dim, heads, dropout, batch_first=True)
        self.linear1 = nn.Linear(dim, feedforward)
        self.linear2 = nn.Linear(feedforward, dim)
        self.norm1 = nn.LayerNorm(dim)
        self.norm2 = nn.LayerNorm(dim)
        self.dropout = nn.Dropout(dropout)
        self.pre_norm = pre_norm

    def _feed_forward(self, x: Tensor) -> Tensor:
        return self.linear2(self.dropout(functional.relu(self.linear1(x))))


class EncoderLayer(Layer):
    """Self-attention over the feature cells, then a feed-forward network."""

    def forward(self, x: Tensor, padding: Tensor | None, position: Tensor) -> Tensor:
        """Maps cells `[B, N, dim]` to `[B, N, dim]`.

        Args:
            x: cells `[B, N, dim]`.
            padding: of `key_mask`, for cells that attention must not look at.
            position: `[B, N, dim]`, added to queries and keys.
        """
        if self.pre_norm:
            x = x + self.dropout(self._attend(self.norm1(x), padding, position))
            return x + self.dropout(self._feed_forward(self.norm2(x)))
        x = self.norm1(x + self.dropout(self._attend(x, padding, position)))
        return self.norm2(x + self.dropout(self._feed_forward(x)))

    def _attend(self, x: Tensor, padding: Tensor | None, position: Tensor) -> Tensor:
        query = x + position
        return attend(self.self_attn, query, query, x, padding)


class DecoderLayer(Layer):
    """Self-attention among the queries, attention from them to the cells, then a feed-forward network."""

    def __init__(self, dim: int, heads: int, feedforward: int, dropout: float, pre_norm: bool) -> None:
        super().__init__(dim, heads, feedforward, dropout, pre_norm)
        self.multihead_attn = nn.MultiheadAttention(dim, heads, dropout, batch_first=True)
        self.norm3 = nn.LayerNorm(dim)

    def forward(
        self, x: Tensor, keys: Tensor, memory: Tensor, padding: Tensor | None, query_position: Tensor
    ) -> Tensor:
        """Maps objects `[B, Q, dim]` to `[B, Q, dim]`.

        Args:
            x: the objects so far, `[B, Q, dim]`.
            keys: encoded cells with their positions added, `[B, N, dim]`.
            memory: encoded cells, `[B, N, dim]`.
            padding: of `key_mask`, for cells to leave out.
            query_position: the learned object queries, `[Q, dim]`.
        """
        if self.pre_norm:
            x = x + self.dropout(self._attend(self.norm1(x), query_position))
            x = x + self.dropout(self._look(self.norm2(x), keys, memory, padding, query_position))
            return x + self.dropout(self._feed_forward(self.norm3(x)))
        x = self.norm1(x + self.dropout(self._attend(x, query_position)))
        x = self.norm2(x + self.dropout(self._look(x, keys, memory, padding, query_position)))
        return self.norm3(x + self.dropout(self._feed_forward(x)))

    def _attend(self, x: Tensor, query_position: Tensor) -> Tensor:
        query = x + query_position
        return attend(self.self_attn, query, query, x)

    def _look(self, x: Tensor, keys: Tensor, memory: Tensor, padding: Tensor | None, query_position: Tensor) -> Tensor:
        return attend(self.multihead_attn, x + query_position, keys, memory, padding)


class Encoder(nn.Module):
    """A stack of encoder layers, normalised at the end only where its layers normalise first."""

    def __init__(self, layers: list[EncoderLayer], norm: nn.LayerNorm | None) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.norm = norm

    def forward(self, x: Tensor, padding: Tensor | None, position: Tensor) -> Tensor:
        """Maps cells `[B, N, dim]` to `[B, N, dim]`; `padding` and `position` as in `EncoderLayer`."""
        for layer in self.layers:
            x = layer(x, padding, position)
        return x if self.norm is None else self.norm(x)


class Decoder(nn.Module):
    """A stack of decoder layers; one shared normalisation makes every layer's output predictable from."""

    def __init__(self, layers: list[DecoderLayer], norm: nn.LayerNorm) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.norm = norm

    def forward(self, memory: Tensor, padding: Tensor | None, position: Tensor, query_position: Tensor) -> Tensor:
        """Objects after each of the L layers, `[L, B, Q, dim]`.

        Args:
            memory: encoded cells `[B, N, dim]`.
            padding: of `key_mask`, for cells to leave out.
            position: of the cells, `[B, N, dim]`.
            query_position: the learned object queries, `[Q, dim]`.
        """
        keys = memory + position
        x = torch.zeros_like(query_position).expand(memory.shape[0], -1, -1)
        after_each = []
        for layer in self.layers:
            x = layer(x, keys, memory, padding, query_position)
            after_each.append(x)
        return cast(Tensor, self.norm(torch.stack(after_each)))


class Transformer(nn.Module):
    """Encoder and decoder with Xavier-uniform weight matrices (section 4)."""

    def __init__(
        self,
        dim: int,
        heads: int,
        encoder_layers: int,
        decoder_layers: int,
        feedforward: int,
        dropout: float,
        pre_norm: bool,
    ) -> None:
        super().__init__()
        shape = (dim, heads, feedforward, dropout, pre_norm)
        self.encoder = Encoder(
            [EncoderLayer(*shape) for _ in range(encoder_layers)], nn.LayerNorm(dim) if pre_norm else None
        )
        self.decoder = Decoder([DecoderLayer(*shape) for _ in range(decoder_layers)], nn.LayerNorm(dim))
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)

    def forward(self, features: Tensor, padding_mask: Tensor, queries: Tensor, position: Tensor) -> Tensor:
        """Decodes the object queries against a feature map.

        Args:
            features: `[B, dim, h, w]`.
            padding_mask: bool `[B, h, w]`, True where padded; what those cells hold makes no difference.
            queries: the learned queries `[Q, dim]`.
            position: `[B, dim, h, w]`.

        Returns:
            Objects after each decoder layer, `[L, B, Q, dim]`.
        """
        cells = features.flatten(2).transpose(1, 2)
        position = position.flatten(2).transpose(1, 2)
        padding = key_mask(padding_mask.flatten(1))
        memory = self.encoder(cells, padding, position)
        return cast(Tensor, self.decoder(memory, padding, position, queries))
