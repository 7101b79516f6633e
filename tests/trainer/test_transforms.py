from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from PIL import Image

from trainer.transforms import (
    EvalTransform,
    LightTransform,
    PaperTransform,
    Sample,
    crop,
    flip,
    normalize,
    resize,
)


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


@pytest.mark.parametrize(
    ("shorter", "longest", "size"), [(80, None, (120, 80)), (80, 90, (90, 60)), (40, 1000, (60, 40))]
)
def test_boxes_follow_a_resize(shorter, longest, size):
    scaled = resize(marked(), shorter, longest)
    assert scaled.image.size == size
    assert scaled.boxes[0].tolist() == pytest.approx(bright_box(scaled.image), abs=1)


def test_normalisation():
    tensor = normalize(Image.new("RGB", (5, 4), (255, 0, 128)))
    assert tensor.shape == (3, 4, 5)
    wanted = [(1 - 0.485) / 0.229, (0 - 0.456) / 0.224, (128 / 255 - 0.406) / 0.225]
    assert tensor[:, 0, 0].tolist() == pytest.approx(wanted, abs=1e-5)


@pytest.mark.parametrize("kind", [LightTransform, PaperTransform])
def test_augmented_boxes_stay_on_their_object(kind):
    transform = kind(160, 300)
    for seed in range(40):
        sample = transform(marked(180, 120), random.Random(seed))
        if len(sample.boxes):
            white = bright_box(sample.image)
            assert sample.boxes[0].tolist() == pytest.approx(white, abs=2.5)


def test_the_papers_sizes():
    transform = PaperTransform(800, 1333)
    assert transform.sizes == [480, 512, 544, 576, 608, 640, 672, 704, 736, 768, 800]
    assert transform.before_crop == [400, 500, 600]
    assert transform.crop_range == (384, 600)
    sizes = {min(PaperTransform(100, 1000)(marked(), random.Random(seed)).image.size) for seed in range(60)}
    assert min(sizes) == 60
    assert max(sizes) == 100


def test_the_light_one_keeps_one_size_but_for_rounding():
    sizes = [LightTransform(60, 90)(marked(), random.Random(seed)).image.size for seed in range(30)]
    assert all(abs(width - 90) <= 2 and abs(height - 60) <= 2 for width, height in sizes)
    square = {LightTransform(60, 90)(marked(50, 50), random.Random(seed)).image.size for seed in range(30)}
    assert square == {(60, 60)}


def test_augmentation_follows_its_generator():
    first, again, other = (LightTransform(60, 90)(marked(), random.Random(seed)) for seed in (4, 4, 5))
    assert torch.equal(first.boxes, again.boxes)
    assert first.image.tobytes() == again.image.tobytes()
    assert first.image.tobytes() != other.image.tobytes()


def test_predicting_only_resizes():
    sample = EvalTransform(80, 1000)(marked(), random.Random(0))
    assert sample.image.size == (120, 80)
    assert sample.boxes[0].tolist() == [20, 10, 60, 50]
