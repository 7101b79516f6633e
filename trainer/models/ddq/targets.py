"""The objects of a batch as tensors of one shape."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torchvision.ops import box_convert


class Targets(NamedTuple):
    """T is the most objects that an image of the batch has, which may be 0."""

    labels: Tensor
    """int64 `[B, T]`, 0 where there is no object."""
    boxes: Tensor
    """float32 `[B, T, 4]`, x0, y0, x1, y1 in px of the padded images; 0 where there is no object."""
    present: Tensor
    """bool `[B, T]`."""


def pad_targets(targets: Sequence[dict[str, Tensor]], sizes: Tensor) -> Targets:
    """Pads the objects of each image to as many as the fullest one has; nothing is read back from the device.

    Args:
        targets: for each image `labels` int64 `[n]` and `boxes` `[n, 4]`, cx, cy, w, h in fractions of the image.
        sizes: `[B, 2]`, width and height in px of each image without its padding.
    """
    labels = pad_sequence([target["labels"] for target in targets], batch_first=True)
    boxes = pad_sequence([target["boxes"] for target in targets], batch_first=True).float()
    counts = torch.tensor([len(target["labels"]) for target in targets]).to(labels.device, non_blocking=True)
    present = torch.arange(labels.shape[1], device=labels.device) < counts[:, None]
    return Targets(labels, box_convert(boxes, "cxcywh", "xyxy") * sizes.repeat(1, 2)[:, None], present)
