"""A generated dataset in the layout of CVAT's COCO export, to try the pipeline without one's own data."""

from __future__ import annotations

import colorsys
import json
import math
import random
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

SAMPLE_IMAGES = 500
SIDE = 96
CLASSES = ("circle", "square", "triangle")

_WITHOUT_OBJECTS = 0.08
_MOST_OBJECTS = 4
_SMALLEST, _LARGEST = 14, 44
_SUPERSAMPLE = 4
# Degrees on the colour wheel around which the fills of a class lie. A small network learns shape alone slowly;
# shape and colour together, within minutes on a laptop.
_HUES = {"circle": 0, "square": 120, "triangle": 240}
_HUE_SPREAD = 35


def draw_sample(folder: Path, images: int = SAMPLE_IMAGES, seed: int = 0) -> Path:
    """Draw circles, squares and triangles on a textured background, with exact boxes around them.

    Args:
        folder: receives `images/*.jpg` and `annotations/instances_default.json`, the files that CVAT's
            exporter "COCO 1.0" writes. What is there under the same names is overwritten.
        images: how many; about one in twelve has no object, so that negatives are part of the sample.
        seed: the same seed draws the same bytes.

    Returns:
        `folder`.

    Raises:
        ValueError: `images` is below 1.
    """
    if images < 1:
        raise ValueError(f"a sample needs at least 1 image, not {images}")
    (folder / "images").mkdir(parents=True, exist_ok=True)
    (folder / "annotations").mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for image_id in range(1, images + 1):
        # A generator for every image: a sample of 50 is the beginning of a sample of 500.
        rng = random.Random(f"{seed}/{image_id}")
        name = f"shapes_{image_id:05d}.jpg"
        picture, objects = _draw_image(rng)
        picture.save(folder / "images" / name, quality=92)
        rows.append(_image_row(image_id, name))
        for label, box in objects:
            annotations.append(_annotation_row(len(annotations) + 1, image_id, label, box))
    content = {
        "licenses": [{"name": "", "id": 0, "url": ""}],
        "info": {
            "contributor": "",
            "date_created": "",
            "description": "",
            "url": "",
            "version": "",
            "year": "",
        },
        "categories": [
            {"id": category_id, "name": name, "supercategory": ""} for category_id, name in enumerate(CLASSES, start=1)
        ],
        "images": rows,
        "annotations": annotations,
    }
    path = folder / "annotations" / "instances_default.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    return folder


def _image_row(image_id: int, name: str) -> dict[str, Any]:
    return {
        "id": image_id,
        "width": SIDE,
        "height": SIDE,
        "file_name": name,
        "license": 0,
        "flickr_url": "",
        "coco_url": "",
        "date_captured": 0,
    }


def _annotation_row(annotation_id: int, image_id: int, label: int, box: list[float]) -> dict[str, Any]:
    return {
        "id": annotation_id,
        "image_id": image_id,
        "category_id": label + 1,
        "segmentation": [],
        "area": round(box[2] * box[3], 2),
        "bbox": box,
        "iscrowd": 0,
        "attributes": {"occluded": False, "rotation": 0.0},
    }


def _draw_image(rng: random.Random) -> tuple[Image.Image, list[tuple[int, list[float]]]]:
    """An image, and for each of its objects the label and the box [x, y, w, h] in px."""
    picture = _ground(rng)
    objects: list[tuple[int, list[float]]] = []
    if rng.random() >= _WITHOUT_OBJECTS:
        for _ in range(rng.randint(1, _MOST_OBJECTS)):
            placed = _place(rng, [box for _, box in objects])
            if placed is None:
                break
            label = rng.randrange(len(CLASSES))
            outline = _outline(CLASSES[label], placed, rng.uniform(-0.3, 0.3))
            _paint(picture, outline, _fill(CLASSES[label], rng))
            xs, ys = [x for x, _ in outline], [y for _, y in outline]
            box = [min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)]
            objects.append((label, [round(value, 2) for value in box]))
    return picture, objects


def _ground(rng: random.Random) -> Image.Image:
    """A muted colour with a slope of light and soft noise over it."""
    noise = np.random.default_rng(rng.getrandbits(32))
    base = noise.uniform(60, 195) + noise.uniform(-22, 22, size=3)
    ramp = np.linspace(-1, 1, SIDE)
    slope = noise.uniform(-25, 25) * ramp[:, None] + noise.uniform(-25, 25) * ramp[None]
    speckle = noise.normal(0, 14, size=(SIDE, SIDE, 3))
    pixels = np.clip(base + slope[..., None] + speckle, 0, 255).astype(np.uint8)
    return Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(0.8))


def _place(rng: random.Random, taken: list[list[float]]) -> tuple[float, float, float] | None:
    """Centre and size in px of a shape that keeps clear of the others; None when there is no room."""
    for _ in range(20):
        size = rng.uniform(_SMALLEST, _LARGEST)
        # A turned square reaches 0.64 of its side from the centre.
        reach = size * 0.66
        x, y = rng.uniform(reach, SIDE - reach), rng.uniform(reach, SIDE - reach)
        clear = all(
            x + reach < left or x - reach > left + width or y + reach < top or y - reach > top + height
            for left, top, width, height in taken
        )
        if clear:
            return x, y, size
    return None


def _outline(shape: str, placed: tuple[float, float, float], turn: float) -> list[tuple[float, float]]:
    """Corners in px of a shape turned by `turn` radians; a circle has many."""
    x, y, size = placed
    corners, first, radius = {
        "circle": (64, 0.0, size / 2),
        "square": (4, math.pi / 4, size / math.sqrt(2) * 0.9),
        "triangle": (3, -math.pi / 2, size * 0.6),
    }[shape]
    angles = [first + turn + 2 * math.pi * corner / corners for corner in range(corners)]
    return [(x + radius * math.cos(angle), y + radius * math.sin(angle)) for angle in angles]


def _fill(shape: str, rng: random.Random) -> tuple[int, int, int]:
    """A strong colour near the hue of the class, bright or dark."""
    hue = (_HUES[shape] + rng.uniform(-_HUE_SPREAD, _HUE_SPREAD)) / 360 % 1
    red, green, blue = colorsys.hsv_to_rgb(hue, rng.uniform(0.65, 1.0), rng.uniform(0.5, 1.0))
    return round(255 * red), round(255 * green), round(255 * blue)


def _paint(picture: Image.Image, outline: list[tuple[float, float]], colour: tuple[int, int, int]) -> None:
    """Fill an outline with smooth edges, which Pillow only gives by drawing large and shrinking."""
    mask = Image.new("L", (SIDE * _SUPERSAMPLE, SIDE * _SUPERSAMPLE))
    ImageDraw.Draw(mask).polygon([(x * _SUPERSAMPLE, y * _SUPERSAMPLE) for x, y in outline], fill=255)
    picture.paste(colour, mask=mask.resize((SIDE, SIDE), Image.Resampling.BOX))
