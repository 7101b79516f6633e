from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from PIL import Image

from trainer.data.transforms import EvalTransform, Sample, crop, flip, resize


def marked(width: int = 60, height: int = 40) -> Sample:
    """A black image whose only object is a white rectangle from (10, 5) to (30, 25)."""
    pixels = np.zeros((height, width, 3), dtype=np.uint8)
    pixels[5:25, 10:30] = 255
    return Sample(Image.fromarray(pixels), torch.tensor([[10.0, 5.0, 30.0, 25.0]]), torch.tensor([1]))


def bright_box(image: Image.Image) -> list[int]:
    """Where the white rectangle is now: x0, y0, x1, y1."""
    rows, columns = np.nonzero(np.asarray(image)[..., 0] > 127)
    return [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]


def test_boxes_follow_a_flip():
    flipped = flip(marked())
    assert flipped.boxes[0].tolist() == bright_box(flipped.image) == [30, 5, 50, 25]


def test_boxes_follow_a_crop():
    cut = crop(marked(), 20, 10, 30, 20)
    assert cut.image.size == (30, 20)
    assert cut.boxes[0].tolist() == bright_box(cut.image) == [0, 0, 10, 15]


def test_a_crop_drops_what_lies_outside():
    cut = crop(marked(), 40, 30, 20, 10)
    assert cut.boxes.shape == (0, 4)
    assert cut.labels.shape == (0,)


def test_a_window_beyond_the_image_shows_the_mean_colour():
    wide = crop(marked(), -20, -5, 100, 60)
    assert wide.image.size == (100, 60)
    assert wide.image.getpixel((0, 0)) == (124, 116, 104)
    assert wide.image.getpixel((20, 5)) == (0, 0, 0)
    assert wide.image.getpixel((99, 59)) == (124, 116, 104)
    assert wide.boxes[0].tolist() == bright_box(wide.image) == [30, 10, 50, 30]


@pytest.mark.parametrize(
    ("shorter", "longest", "size"), [(80, None, (120, 80)), (80, 90, (90, 60)), (40, 1000, (60, 40))]
)
def test_boxes_follow_a_resize(shorter, longest, size):
    scaled = resize(marked(), shorter, longest)
    assert scaled.image.size == size
    assert scaled.boxes[0].tolist() == pytest.approx(bright_box(scaled.image), abs=1)


def test_predicting_only_resizes():
    sample = EvalTransform(80, 1000)(marked(), random.Random(0))
    assert sample.image.size == (120, 80)
    assert sample.boxes[0].tolist() == [20, 10, 60, 50]
