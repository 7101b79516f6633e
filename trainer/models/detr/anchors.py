"""Object queries that start out with a place of their own, which a small model learns boxes from in minutes.

The authors' queries start as noise, and it takes them many thousands of steps to agree on who looks where. Here
each has a box that its predictions are offsets from (as in DAB-DETR, Liu et al. 2022, arXiv 2201.12329), and
its embedding starts as the code of that box's centre.
"""

from __future__ import annotations

import torch
from torch import Tensor

from trainer.models.detr.position_encoding import SinePositionEncoding

_SIDE = 0.2
_RASTER = 128


def spread_boxes(count: int) -> Tensor:
    """Boxes `[count, 4]` as cx, cy, w, h in fractions of the image, evenly spread; more of them only add to fewer."""
    # The sequence starts in the corner, where a box would lie mostly outside.
    centres = torch.quasirandom.SobolEngine(dimension=2).draw(count + 1)[1:]
    return torch.cat([centres, torch.full_like(centres, _SIDE)], dim=1)


def position_codes(encoding: SinePositionEncoding, centres: Tensor) -> Tensor:
    """The code `[Q, dim]` of the cell that each centre `[Q, 2]`, in fractions of the image, lies in."""
    raster = encoding(torch.zeros(1, _RASTER, _RASTER, dtype=torch.bool))[0]
    columns, rows = (centres * _RASTER).long().clamp(0, _RASTER - 1).unbind(1)
    return raster[:, rows, columns].T


@torch.no_grad()
def look_nearby(in_proj_weight: Tensor) -> None:
    """Lets an attention start out high between a query and a key of like position, by mapping both alike.

    Args:
        in_proj_weight: of the attention, `[3 dim, dim]`: the maps of queries, keys and values.
    """
    query, key, _ = in_proj_weight.chunk(3)
    key.copy_(query)
