"""From a PIL image with boxes in pixels to an image to train on or to predict on, and to a normalised tensor.

Augmentation is planned from an image's size alone and carried out afterwards, so that whoever groups images
into batches can know their sizes without opening one.
"""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from trainer.data.batch import MEAN

_MEAN_COLOUR = tuple(round(255 * share) for share in MEAN)

Size = tuple[int, int]
"""Width and height in px."""


@dataclass(frozen=True)
class Sample:
    """An image with its objects: `boxes` float32 `[n, 4]` (x0, y0, x1, y1 in pixels), `labels` `[n]`."""

    image: Image.Image
    boxes: Tensor
    labels: Tensor


@dataclass(frozen=True)
class Plan:
    """What is to be done with one image, in the order of the fields; None leaves a step out."""

    flip: bool
    colour: tuple[float, ...] | None
    """Three rows of four: each new channel's share of red, green, blue, and what is added."""
    resize: Size | None
    window: tuple[int, int, int, int] | None
    """Left, top, width and height of what is kept, in px; it may reach beyond the image."""
    size: Size
    """Of the result."""

    def apply(self, sample: Sample) -> Sample:
        """Carries it out."""
        if self.flip:
            sample = flip(sample)
        if self.colour is not None:
            sample = Sample(sample.image.convert("RGB", self.colour), sample.boxes, sample.labels)
        if self.resize is not None:
            sample = resize_to(sample, self.resize)
        if self.window is not None:
            sample = crop(sample, *self.window)
        return resize_to(sample, self.size)


def to_tensor(image: Image.Image) -> Tensor:
    """An RGB image as uint8 `[3, H, W]`, in memory pixel by pixel (channels last)."""
    return torch.from_numpy(np.array(image, dtype=np.uint8)).permute(2, 0, 1)


def scaled(size: Size, shorter: int, longest: int | None = None) -> Size:
    """A size whose shorter side has `shorter` px, or less where the longer would pass `longest` px."""
    width, height = size
    scale = shorter / min(width, height)
    if longest is not None:
        scale = min(scale, longest / max(width, height))
    return max(1, round(width * scale)), max(1, round(height * scale))


def resize(sample: Sample, shorter: int, longest: int | None = None) -> Sample:
    """Scales so that the shorter side has `shorter` px, or less where the longer would pass `longest` px."""
    return resize_to(sample, scaled(sample.image.size, shorter, longest))


def resize_to(sample: Sample, size: Size) -> Sample:
    """Scales to a width and height, bilinear with antialiasing."""
    width, height = sample.image.size
    if size == (width, height):
        return sample
    ratio = torch.tensor([size[0] / width, size[1] / height] * 2)
    image = sample.image.resize(size, Image.Resampling.BILINEAR)
    return Sample(image, sample.boxes * ratio, sample.labels)


def flip(sample: Sample) -> Sample:
    """Mirrors left and right."""
    width = sample.image.size[0]
    x0, y0, x1, y1 = sample.boxes.unbind(1)
    mirrored = torch.stack([width - x1, y0, width - x0, y1], dim=1)
    return Sample(sample.image.transpose(Image.Transpose.FLIP_LEFT_RIGHT), mirrored, sample.labels)


def crop(sample: Sample, left: int, top: int, width: int, height: int) -> Sample:
    """Cuts out a window in pixels; boxes are cut with it, and those wholly outside go.

    Where the window reaches beyond the image it shows the mean colour, as padding does.
    """
    full_width, full_height = sample.image.size
    if left < 0 or top < 0 or left + width > full_width or top + height > full_height:
        image = Image.new("RGB", (width, height), _MEAN_COLOUR)
        image.paste(sample.image, (-left, -top))
    else:
        image = sample.image.crop((left, top, left + width, top + height))
    origin = torch.tensor([left, top, left, top], dtype=torch.float32)
    limit = torch.tensor([width, height, width, height], dtype=torch.float32)
    boxes = torch.minimum((sample.boxes - origin).clamp(min=0), limit)
    inside = (boxes[:, 2:] > boxes[:, :2]).all(1)
    return Sample(image, boxes[inside], sample.labels[inside])


class Transform(ABC):
    """What happens to an image between the disk and the model."""

    def __init__(self, image_size: int, max_size: int) -> None:
        """Takes the largest shorter side and the limit for the longer, both in px."""
        self.image_size = image_size
        self.max_size = max_size

    @abstractmethod
    def plan(self, size: Size, rng: random.Random) -> Plan:
        """What to do with an image of a size, by the randomness of `rng`."""

    def __call__(self, sample: Sample, rng: random.Random) -> Sample:
        """Plans and carries out."""
        return self.plan(sample.image.size, rng).apply(sample)


class EvalTransform(Transform):
    """Resizes to the size to predict at; nothing is left to chance."""

    def plan(self, size: Size, rng: random.Random) -> Plan:
        """The same for every `rng`."""
        return Plan(False, None, None, None, scaled(size, self.image_size, self.max_size))
