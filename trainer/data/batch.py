"""Images of different sizes as one padded batch, and the pixels that a network takes."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
"""ImageNet's mean and deviation of red, green and blue, as shares of 255."""


@dataclass(frozen=True)
class Batch:
    """Images `[B, 3, H, W]`, mask `[B, H, W]` (True where padded) and a target for each image.

    The images stay uint8, a quarter of the bytes to move between processes and to the device, until the model
    normalises them.
    """

    images: Tensor
    padding_mask: Tensor
    targets: list[dict[str, Tensor]]

    def to(self, device: torch.device) -> Batch:
        """The same batch on a device."""
        images = self.images.to(device, non_blocking=True)
        padding_mask = self.padding_mask.to(device, non_blocking=True)
        targets = [{key: value.to(device, non_blocking=True) for key, value in t.items()} for t in self.targets]
        return Batch(images, padding_mask, targets)

    def pin_memory(self) -> Batch:
        """The same batch in memory that a GPU reads by itself; what `DataLoader` calls."""
        targets = [{key: value.pin_memory() for key, value in t.items()} for t in self.targets]
        return Batch(self.images.pin_memory(), self.padding_mask.pin_memory(), targets)

    def __reduce__(self) -> tuple[Any, ...]:
        # Between processes each tensor costs a file descriptor, which takes longer to hand over than the few
        # numbers of a target take to copy.
        arrays = [{key: value.numpy() for key, value in target.items()} for target in self.targets]
        return _batch_from_arrays, (self.images, self.padding_mask, arrays)


def _batch_from_arrays(images: Tensor, padding_mask: Tensor, arrays: list[dict[str, np.ndarray]]) -> Batch:
    targets = [{key: torch.from_numpy(value) for key, value in target.items()} for target in arrays]
    return Batch(images, padding_mask, targets)


def pad(images: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Pads images uint8 `[3, H_i, W_i]` at the right and the bottom; the model's normalisation makes the padding 0.

    Returns:
        uint8 `[B, 3, H, W]` with the greatest height and width, and a bool mask `[B, H, W]`, True where padded.
    """
    height = max(image.shape[1] for image in images)
    width = max(image.shape[2] for image in images)
    # Channels last in memory, as images come from PIL: rows are copied whole.
    batch = torch.zeros(len(images), height, width, 3, dtype=torch.uint8).permute(0, 3, 1, 2)
    mask = torch.ones(len(images), height, width, dtype=torch.bool)
    for index, image in enumerate(images):
        batch[index, :, : image.shape[1], : image.shape[2]] = image
        mask[index, : image.shape[1], : image.shape[2]] = False
    return batch, mask


def collate(items: list[tuple[Tensor, dict[str, Tensor]]]) -> Batch:
    """Items of the dataset as one batch."""
    return Batch(*pad([image for image, _ in items]), [target for _, target in items])


def normalize(images: Tensor, padding_mask: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """Pixels with mean 0 and deviation 1, and padding 0, computed where the images are.

    Args:
        images: uint8 `[B, 3, H, W]`.
        padding_mask: bool `[B, H, W]`, True where padded.
        mean: of each channel, in levels of 0 to 255.
        std: its deviation, in the same unit.

    Returns:
        float32 `[B, 3, H, W]`.
    """
    means, deviations = _statistics(mean, std, images.device)
    floats = images.to(torch.float32, memory_format=torch.contiguous_format, copy=True)
    return floats.sub_(means).div_(deviations).masked_fill_(padding_mask[:, None], 0)


@lru_cache
def _statistics(mean: tuple[float, ...], std: tuple[float, ...], device: torch.device) -> tuple[Tensor, Tensor]:
    return torch.tensor(mean, device=device)[:, None, None], torch.tensor(std, device=device)[:, None, None]
