"""The two-dimensional encodings that tell attention where a feature cell lies."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from trainer.errors import TrainerError

_CELLS = 50


def position_encoding(kind: str, dim: int) -> SinePositionEncoding | LearnedPositionEncoding:
    """The encoding of a name, "sine" or "learned", for a transformer of width `dim`."""
    return LearnedPositionEncoding(dim) if kind == "learned" else SinePositionEncoding(dim)


class SinePositionEncoding(nn.Module):
    """Sines and cosines of the row and the column (appendix A.4, "Spatial positional encoding").

    Positions are counted over the cells that hold image and scaled to 2 pi per image side, so an image and
    its padded copy get the same code. There is nothing to learn and nothing in the state dict.
    """

    def __init__(self, dim: int, temperature: float = 10000.0) -> None:
        """Takes the transformer's width `dim`, half of it for rows and half for columns.

        Raises:
            ValueError: `dim` is not a multiple of 4.
        """
        super().__init__()
        if dim % 4:
            raise ValueError(f"the width of a sine position encoding must be a multiple of 4, not {dim}")
        self.axis_dim = dim // 2
        self.temperature = temperature

    def forward(self, padding_mask: Tensor) -> Tensor:
        """Maps a bool mask `[B, h, w]` (True where padded) to an encoding `[B, dim, h, w]`, float32."""
        inside = (~padding_mask).to(torch.float32)
        rows, columns = inside.cumsum(1), inside.cumsum(2)
        rows = rows / (rows[:, -1:, :] + 1e-6) * (2 * math.pi)
        columns = columns / (columns[:, :, -1:] + 1e-6) * (2 * math.pi)
        exponent = torch.arange(0, self.axis_dim, 2, dtype=torch.float32, device=inside.device) / self.axis_dim
        wavelength = self.temperature**exponent
        return torch.cat([self._waves(rows, wavelength), self._waves(columns, wavelength)], dim=1)

    @staticmethod
    def _waves(position: Tensor, wavelength: Tensor) -> Tensor:
        """Interleaved sine and cosine: `[B, h, w]` and `[half / 2]` to `[B, half, h, w]`."""
        angle = position[:, None] / wavelength[None, :, None, None]
        return torch.stack([angle.sin(), angle.cos()], dim=2).flatten(1, 2)


class LearnedPositionEncoding(nn.Module):
    """An embedding for each column and each row, up to 50 of either (table 3 of the paper, "learned at input")."""

    def __init__(self, dim: int) -> None:
        """Takes the transformer's width `dim`, half of it for rows and half for columns.

        Raises:
            ValueError: `dim` is odd.
        """
        super().__init__()
        if dim % 2:
            raise ValueError(f"the width of a learned position encoding must be even, not {dim}")
        self.row_embed = nn.Embedding(_CELLS, dim // 2)
        self.col_embed = nn.Embedding(_CELLS, dim // 2)
        nn.init.uniform_(self.row_embed.weight)
        nn.init.uniform_(self.col_embed.weight)

    def forward(self, padding_mask: Tensor) -> Tensor:
        """Maps a bool mask `[B, h, w]` to an encoding `[B, dim, h, w]`.

        Raises:
            TrainerError: `h` or `w` is above 50.
        """
        images, height, width = padding_mask.shape
        if max(height, width) > _CELLS:
            raise TrainerError(
                f"position_embedding learned ends at {_CELLS} cells a side, and an image has {max(height, width)};"
                " set it to sine, or lower image_size and max_size"
            )
        columns = self.col_embed.weight[:width].expand(height, -1, -1)
        rows = self.row_embed.weight[:height, None].expand(-1, width, -1)
        return torch.cat([columns, rows], dim=-1).permute(2, 0, 1).expand(images, -1, -1, -1)
