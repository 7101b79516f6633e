"""From a PIL image with boxes in pixels to a normalised tensor, with the paper's augmentation or without."""

from __future__ import annotations

import random
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

_MEAN = torch.tensor([0.485, 0.456, 0.406])[:, None, None]
_STD = torch.tensor([0.229, 0.224, 0.225])[:, None, None]

# The paper's sizes for a shorter side of at most 800 px (section 4), as shares of it: 480, 512, ... 800 to
# resize to; 400, 500 or 600 to resize to before cropping 384 to 600 px. Another image size scales them.
_RESIZE_SHARES = tuple(step / 25 for step in range(15, 26))
_BEFORE_CROP_SHARES = (0.5, 0.625, 0.75)
_CROP_SHARES = (0.48, 0.75)


@dataclass(frozen=True)
class Sample:
    """An image with its objects: `boxes` float32 `[n, 4]` (x0, y0, x1, y1 in pixels), `labels` `[n]`."""

    image: Image.Image
    boxes: Tensor
    labels: Tensor


def normalize(image: Image.Image) -> Tensor:
    """An RGB image as float32 `[3, H, W]` with ImageNet's mean 0 and deviation 1."""
    pixels = torch.from_numpy(np.array(image, dtype=np.uint8)).permute(2, 0, 1)
    return ((pixels.float() / 255 - _MEAN) / _STD).contiguous()


def resize(sample: Sample, shorter: int, longest: int | None = None) -> Sample:
    """Scales so that the shorter side has `shorter` px, or less where the longer would pass `longest` px."""
    width, height = sample.image.size
    scale = shorter / min(width, height)
    if longest is not None:
        scale = min(scale, longest / max(width, height))
    size = max(1, round(width * scale)), max(1, round(height * scale))
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
    """Cuts out a window in pixels; boxes are cut with it, and those wholly outside go."""
    image = sample.image.crop((left, top, left + width, top + height))
    origin = torch.tensor([left, top, left, top], dtype=torch.float32)
    limit = torch.tensor([width, height, width, height], dtype=torch.float32)
    boxes = torch.minimum((sample.boxes - origin).clamp(min=0), limit)
    inside = (boxes[:, 2:] > boxes[:, :2]).all(1)
    return Sample(image, boxes[inside], sample.labels[inside])


class EvalTransform:
    """Resizes to the size to predict at."""

    def __init__(self, image_size: int, max_size: int) -> None:
        """Takes the shorter side and the limit for the longer, both in px."""
        self.image_size = image_size
        self.max_size = max_size

    def __call__(self, sample: Sample, rng: random.Random) -> Sample:
        """Resizes a sample; nothing is left to chance."""
        return resize(sample, self.image_size, self.max_size)


class PaperTransform:
    """Flip, and a random size that half of the time is that of a random crop (section 4)."""

    def __init__(self, image_size: int, max_size: int) -> None:
        """Takes the largest shorter side and the limit for the longer, both in px."""
        self.sizes = [round(image_size * share) for share in _RESIZE_SHARES]
        self.before_crop = [round(image_size * share) for share in _BEFORE_CROP_SHARES]
        self.crop_range = tuple(round(image_size * share) for share in _CROP_SHARES)
        self.max_size = max_size

    def __call__(self, sample: Sample, rng: random.Random) -> Sample:
        """Augments a sample with the randomness of `rng`."""
        if rng.random() < 0.5:
            sample = flip(sample)
        if rng.random() < 0.5:
            sample = resize(sample, rng.choice(self.before_crop))
            width, height = (
                rng.randint(min(side, self.crop_range[0]), min(side, self.crop_range[1])) for side in sample.image.size
            )
            sample = _crop_somewhere(sample, width, height, rng)
        return resize(sample, rng.choice(self.sizes), self.max_size)


class LightTransform:
    """Flip and a mild crop, then one size for all, so that small batches need little padding."""

    def __init__(self, image_size: int, max_size: int, least: float = 0.6) -> None:
        """Takes the shorter side, the limit for the longer, in px, and the least share of a side to keep."""
        self.image_size = image_size
        self.max_size = max_size
        self.least = least

    def __call__(self, sample: Sample, rng: random.Random) -> Sample:
        """Augments a sample with the randomness of `rng`."""
        if rng.random() < 0.5:
            sample = flip(sample)
        if rng.random() < 0.5:
            # One share for both sides: windows of one shape resize to nearly one size.
            share = rng.uniform(self.least, 1.0)
            width, height = (max(1, round(side * share)) for side in sample.image.size)
            sample = _crop_somewhere(sample, width, height, rng)
        return resize(sample, self.image_size, self.max_size)


def _crop_somewhere(sample: Sample, width: int, height: int, rng: random.Random) -> Sample:
    """Cuts a window of a given size at a random place."""
    left = rng.randint(0, sample.image.size[0] - width)
    top = rng.randint(0, sample.image.size[1] - height)
    return crop(sample, left, top, width, height)
