"""Image files, however they come, as upright 8-bit RGB."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from trainer.data.image_file import open_image

_ORIENTATION = 0x0112  # of the EXIF standard (JEITA CP-3451), table 4


def read_image(file: Path) -> Image.Image:
    """An image in RGB, turned as its EXIF orientation says: CVAT shows it, and measures boxes, upright.

    Raises:
        TrainerError: the file cannot be read as an image.
    """
    with open_image(file) as image:
        ImageOps.exif_transpose(image, in_place=True)
        return to_rgb(image)


def read_thumbnail(file: Path, side: int) -> tuple[np.ndarray, tuple[int, int]]:
    """A grey `[side, side]` uint8 copy, and the width and height in px of the upright image.

    A JPEG is decoded at a fraction of its size where that suffices, many times faster than `read_image`.

    Raises:
        TrainerError: the file cannot be read as an image.
    """
    with open_image(file) as image:
        size = _upright(image)
        # Four times the side, so that the last halvings are done by the resize, which averages.
        image.draft("RGB", (4 * side, 4 * side))
        ImageOps.exif_transpose(image, in_place=True)
        grey = to_rgb(image).convert("L").resize((side, side), Image.Resampling.BOX)
        return np.asarray(grey), size


def read_size(file: Path) -> tuple[int, int]:
    """Width and height in px of the upright image, from the head of the file (a TIFF is read whole).

    Raises:
        TrainerError: the file cannot be read as an image.
    """
    with open_image(file) as image:
        return _upright(image)


def to_rgb(image: Image.Image) -> Image.Image:
    """Any mode as 8-bit RGB, as CVAT shows it to the annotator.

    Grey levels of 16 or 32 bits or in floating point are scaled so that the brightest is 255 (cameras that
    store 10 or 12 bits in 16 would be all but black otherwise), and negative ones are 0. Alpha is dropped:
    transparent pixels get the colour that is stored for them.
    """
    if image.mode.startswith(("I", "F")):
        levels = np.nan_to_num(np.asarray(image, dtype=np.float64), posinf=0.0).clip(min=0)
        image = Image.fromarray((levels * (255 / max(levels.max(), 1e-12))).round().astype(np.uint8))
    elif image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return image.convert("RGB")


def _upright(image: Image.Image) -> tuple[int, int]:
    if image.format == "TIFF":
        # Pillow turns these itself, some versions when they are opened and some when they are loaded.
        ImageOps.exif_transpose(image, in_place=True)
        return image.size
    width, height = image.size
    # 5 to 8 are the four orientations with rows and columns exchanged.
    return (height, width) if image.getexif().get(_ORIENTATION, 1) in (5, 6, 7, 8) else (width, height)
