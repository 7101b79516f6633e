"""How training images are varied, from not at all to strongly."""

from __future__ import annotations

import math
import random

import numpy as np

from trainer.data.transforms import EvalTransform, Plan, Size, Transform, scaled
from trainer.errors import TrainerError

# The paper's sizes for a shorter side of at most 800 px (section 4), as shares of it: 480, 512, ... 800 to
# resize to; 400, 500 or 600 to resize to before cropping 384 to 600 px. Another image size scales them.
_RESIZE_SHARES = tuple(step / 25 for step in range(15, 26))
_BEFORE_CROP_SHARES = (0.5, 0.625, 0.75)
_CROP_SHARES = (0.48, 0.75)


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
