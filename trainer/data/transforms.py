"""From a PIL image with boxes in pixels to an image to train on or to predict on, and to a normalised tensor.

Augmentation is planned from an image's size alone and carried out afterwards, so that whoever groups images
into batches can know their sizes without opening one.
"""

from __future__ import annotations

import math
import random
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from trainer.errors import TrainerError

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
_MEAN_COLOUR = tuple(round(255 * share) for share in MEAN)

# The paper's sizes for a shorter side of at most 800 px (section 4), as shares of it: 480, 512, ... 800 to
# resize to; 400, 500 or 600 to resize to before cropping 384 to 600 px. Another image size scales them.
_RESIZE_SHARES = tuple(step / 25 for step in range(15, 26))
_BEFORE_CROP_SHARES = (0.5, 0.625, 0.75)
_CROP_SHARES = (0.48, 0.75)

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


def normalize(images: Tensor, padding_mask: Tensor) -> Tensor:
    """Pixels with ImageNet's mean 0 and deviation 1, and padding 0, computed where the images are.

    Args:
        images: uint8 `[B, 3, H, W]`.
        padding_mask: bool `[B, H, W]`, True where padded.

    Returns:
        float32 `[B, 3, H, W]`.
    """
    mean, std = _statistics(images.device)
    floats = images.to(torch.float32, memory_format=torch.contiguous_format, copy=True)
    return floats.div_(255).sub_(mean).div_(std).masked_fill_(padding_mask[:, None], 0)


@lru_cache
def _statistics(device: torch.device) -> tuple[Tensor, Tensor]:
    return (
        torch.tensor(MEAN, device=device)[:, None, None],
        torch.tensor(STD, device=device)[:, None, None],
    )


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


class LightTransform(Transform):
    """Flip and a mild crop, then one size for all, so that small batches need little padding."""

    least = 0.6
    """Share of either side that a crop keeps at least."""

    def plan(self, size: Size, rng: random.Random) -> Plan:
        """Half of the images are mirrored, half are cropped."""
        mirrored = rng.random() < 0.5
        window = None
        if rng.random() < 0.5:
            # One share for both sides: windows of one shape resize to nearly one size.
            share = rng.uniform(self.least, 1.0)
            window = _somewhere(size, (max(1, round(size[0] * share)), max(1, round(size[1] * share))), rng)
        shown = size if window is None else window[2:]
        return Plan(mirrored, None, None, window, scaled(shown, self.image_size, self.max_size))


class PaperTransform(Transform):
    """Flip, and a random size that half of the time is that of a random crop (section 4)."""

    def __init__(self, image_size: int, max_size: int) -> None:
        """Takes the largest shorter side and the limit for the longer, both in px."""
        super().__init__(image_size, max_size)
        self.sizes = [round(image_size * share) for share in _RESIZE_SHARES]
        self.before_crop = [round(image_size * share) for share in _BEFORE_CROP_SHARES]
        self.crop_range = tuple(round(image_size * share) for share in _CROP_SHARES)

    def plan(self, size: Size, rng: random.Random) -> Plan:
        """Half of the images are mirrored, half are cropped."""
        mirrored = rng.random() < 0.5
        before = window = None
        if rng.random() < 0.5:
            before = scaled(size, rng.choice(self.before_crop))
            least, most = self.crop_range
            width, height = (rng.randint(min(side, least), min(side, most)) for side in before)
            window = _somewhere(before, (width, height), rng)
        shown = size if window is None else window[2:]
        return Plan(mirrored, None, before, window, scaled(shown, rng.choice(self.sizes), self.max_size))


class StrongTransform(PaperTransform):
    """The paper's flip and sizes, with more zoom in and out and other colours: for a few hundred images.

    A third of the images are cropped to 40 to 100 % of either side, a third are shown at half to full size on
    a ground of the mean colour, a third stay whole. Never upside down: most things have an upper side.
    """

    least = 0.4
    most_zoom_out = 2.0
    recoloured = 0.8
    """Share of the images that get other colours."""
    gain = 0.3
    """Brightness, contrast and saturation change by at most this share."""
    hue = 8.0
    """Turn of the hue in degrees, at most: a class may be known by its colour."""

    def plan(self, size: Size, rng: random.Random) -> Plan:
        """Flip, colour and zoom are independent."""
        mirrored = rng.random() < 0.5
        colour = self._colour(rng) if rng.random() < self.recoloured else None
        zoom, shorter = rng.choice(("in", "out", "none")), rng.choice(self.sizes)
        if zoom == "in":
            width, height = (max(1, round(side * rng.uniform(self.least, 1.0))) for side in size)
            window = _somewhere(size, (width, height), rng)
            return Plan(mirrored, colour, None, window, scaled(window[2:], shorter, self.max_size))
        ground = scaled(size, shorter, self.max_size)
        if zoom == "none":
            return Plan(mirrored, colour, None, None, ground)
        factor = rng.uniform(1.0, self.most_zoom_out)
        shown = max(1, round(ground[0] / factor)), max(1, round(ground[1] / factor))
        left, top = rng.randint(0, ground[0] - shown[0]), rng.randint(0, ground[1] - shown[1])
        return Plan(mirrored, colour, shown, (-left, -top, *ground), ground)

    def _colour(self, rng: random.Random) -> tuple[float, ...]:
        """Brightness, contrast around mid-grey, saturation and hue as one affine map of RGB."""
        brightness, contrast, saturation = (rng.uniform(1 - self.gain, 1 + self.gain) for _ in range(3))
        return colour_matrix(brightness, contrast, saturation, rng.uniform(-self.hue, self.hue))


def colour_matrix(brightness: float, contrast: float, saturation: float, hue: float) -> tuple[float, ...]:
    """Three rows of four for `Image.convert`: factors, 1 for no change, and a turn of the hue in degrees.

    Saturation and hue act on the two colour axes of YIQ (ITU-R BT.470, system M) and leave the luma.
    """
    to_yiq = np.array([[0.299, 0.587, 0.114], [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]])
    cos, sin = (saturation * turn(math.radians(hue)) for turn in (math.cos, math.sin))
    turned = np.linalg.inv(to_yiq) @ np.array([[1, 0, 0], [0, cos, -sin], [0, sin, cos]]) @ to_yiq
    rows = np.hstack([contrast * brightness * turned, np.full((3, 1), (1 - contrast) * 128)])
    return tuple(rows.flatten().tolist())


_STRENGTHS: dict[str, type[Transform]] = {
    "none": EvalTransform,
    "light": LightTransform,
    "paper": PaperTransform,
    "strong": StrongTransform,
}


def train_transform(strength: str, image_size: int, max_size: int) -> Transform:
    """The augmentation of a name, weakest first: none, light, paper or strong.

    Raises:
        TrainerError: no augmentation has that name.
    """
    if strength not in _STRENGTHS:
        raise TrainerError(f"augmentation '{strength}' is not known; it can be {', '.join(_STRENGTHS)}")
    return _STRENGTHS[strength](image_size, max_size)


def _somewhere(size: Size, window: Size, rng: random.Random) -> tuple[int, int, int, int]:
    """A window of a size at a random place within an image: left, top, width, height."""
    return rng.randint(0, size[0] - window[0]), rng.randint(0, size[1] - window[1]), *window
