"""Images with their boxes drawn into them."""

from __future__ import annotations

import colorsys
from functools import lru_cache
from pathlib import Path, PurePosixPath

from PIL import Image, ImageDraw, ImageFont

from steps.common.files import replacing
from steps.predictions.predicted import Predicted

_QUALITY = 90
_GOLDEN = 0.618
"""Of the colour wheel from one class to the next: however many there are, neighbours differ."""


def picture_path(predicted: Predicted) -> PurePosixPath:
    """Give the path of an image's picture in the folder of pictures: the image's own, a JPEG for a video's frame."""
    path = PurePosixPath(predicted.name)
    return path if predicted.frame is None else path.with_suffix(".jpg")


def write_picture(image: Image.Image, predicted: Predicted, class_names: list[str], target: Path) -> None:
    """Draw boxes with class and score into an image, and write it in the format of the target's suffix.

    Args:
        image: upright, RGB; stays as it is.
        predicted: what was found on it.
        class_names: by label.
        target: the file.
    """
    picture = image.copy()
    draw = ImageDraw.Draw(picture)
    unit = max(1, round(max(picture.size) / 500))
    font = _font(12 * unit)
    # The surest on top, and words on top of lines.
    boxes = predicted.boxes[::-1]
    for label, _, box in boxes:
        draw.rectangle(box, outline=_colour(label), width=2 * unit)
    for label, score, box in boxes:
        text = f"{class_names[label]} {score:.2f}"
        left, top, right, bottom = draw.textbbox((0, 0), text, font=font)
        width, height = right - left + 4 * unit, bottom - top + 4 * unit
        # Above the box, or inside it where the image ends; never beyond the image's sides.
        x = max(0, min(box[0], picture.width - width))
        y = box[1] - height if box[1] >= height else box[1]
        draw.rectangle((x, y, x + width, y + height), fill=_colour(label))
        draw.text((x + 2 * unit - left, y + 2 * unit - top), text, fill="black", font=font)
    with replacing(target) as temporary:
        picture.save(temporary, Image.registered_extensions()[target.suffix.lower()], quality=_QUALITY)


def _colour(label: int) -> tuple[int, int, int]:
    """A light colour, on which black can be read."""
    red, green, blue = colorsys.hsv_to_rgb(label * _GOLDEN % 1, 0.65, 1.0)
    return round(255 * red), round(255 * green), round(255 * blue)


@lru_cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    # It has more scripts than Pillow's own.
    import matplotlib

    return ImageFont.truetype(Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf"), size)
