from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from PIL import Image

from tests.trainer.data.test_transforms import marked
from trainer.data.augmentation import LightTransform, PaperTransform, StrongTransform, colour_matrix, train_transform
from trainer.data.transforms import Sample, crop, flip, resize
from trainer.errors import TrainerError


@pytest.mark.parametrize("strength", ["light", "paper", "strong"])
def test_augmented_boxes_stay_on_their_object(strength: str):
    transform = train_transform(strength, 160, 300)
    kept = 0
    for seed in range(80):
        sample = transform(marked(180, 120), random.Random(seed))
        if len(sample.boxes):
            kept += 1
            # Brighter than the mean colour, which zooming out shows around the image.
            rows, columns = np.nonzero(np.asarray(sample.image).min(2) > 150)
            if len(rows) == 0:
                # A sliver at the edge of the crop, mixed with its surroundings.
                assert (sample.boxes[0, 2:] - sample.boxes[0, :2]).min() < 4
                continue
            white = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            assert sample.boxes[0].tolist() == pytest.approx(white, abs=2.5)
    assert kept > 50


def step_by_step(sample: Sample, rng: random.Random, sizes: list[int], longest: int) -> Sample:
    """The paper's augmentation at 160 px, each step done as it is drawn."""
    if rng.random() < 0.5:
        sample = flip(sample)
    if rng.random() < 0.5:
        sample = resize(sample, rng.choice([80, 100, 120]))
        width, height = (rng.randint(min(side, 77), min(side, 120)) for side in sample.image.size)
        left, top = rng.randint(0, sample.image.size[0] - width), rng.randint(0, sample.image.size[1] - height)
        sample = crop(sample, left, top, width, height)
    return resize(sample, rng.choice(sizes), longest)


def test_planning_ahead_is_doing_step_by_step():
    transform = PaperTransform(160, 200)
    noise = Image.effect_noise((190, 130), 90).convert("RGB")
    original = Sample(noise, torch.tensor([[10.0, 5.0, 130.0, 125.0]]), torch.tensor([1]))
    for seed in range(30):
        planned = transform(original, random.Random(seed))
        plain = step_by_step(original, random.Random(seed), transform.sizes, 200)
        assert planned.image.tobytes() == plain.image.tobytes()
        assert torch.equal(planned.boxes, plain.boxes)
        assert transform.plan((190, 130), random.Random(seed)).size == plain.image.size


@pytest.mark.parametrize("size", [(180, 120), (120, 180), (1, 400), (3, 3)])
@pytest.mark.parametrize("strength", ["none", "light", "paper", "strong"])
def test_a_plan_knows_the_size_of_its_result(strength: str, size: tuple[int, int]):
    transform = train_transform(strength, 160, 300)
    original = Sample(Image.new("RGB", size), torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))
    for seed in range(20):
        planned = transform.plan(size, random.Random(seed)).size
        assert transform(original, random.Random(seed)).image.size == planned
        assert max(planned) <= 300


def test_the_strong_one_zooms_both_ways():
    # Height of the object in the result, as a share of the result: it is a sixth of the original.
    shares = []
    for seed in range(200):
        sample = StrongTransform(160, 300)(marked(180, 120), random.Random(seed))
        for x0, y0, x1, y1 in sample.boxes.tolist():
            assert 0 <= x0 < x1 <= sample.image.size[0]
            assert 0 <= y0 < y1 <= sample.image.size[1]
            shares.append((y1 - y0) / sample.image.size[1])
    assert min(shares) < 0.1
    assert max(shares) > 0.3


def test_colours_change_as_the_matrix_says():
    def shown(colour: tuple[int, int, int], *how: float) -> tuple[int, ...]:
        return Image.new("RGB", (1, 1), colour).convert("RGB", colour_matrix(*how)).getpixel((0, 0))

    for colour in [(0, 0, 0), (12, 200, 99), (255, 255, 255)]:
        assert shown(colour, 1, 1, 1, 0) == pytest.approx(colour, abs=1)
    assert shown((100, 50, 20), 1.5, 1, 1, 0) == pytest.approx((150, 75, 30), abs=1)
    assert shown((100, 150, 128), 1, 0.5, 1, 0) == pytest.approx((114, 139, 128), abs=1)
    # Without saturation a colour is its luma (ITU-R BT.601).
    luma = 0.299 * 180 + 0.587 * 90 + 0.114 * 40
    assert shown((180, 90, 40), 1, 1, 0, 0) == pytest.approx((luma,) * 3, abs=1)
    # A turn leaves grey alone and changes what has colour.
    assert shown((90, 90, 90), 1, 1, 1, 60) == pytest.approx((90, 90, 90), abs=1)
    assert max(abs(a - b) for a, b in zip(shown((180, 90, 40), 1, 1, 1, 60), (180, 90, 40), strict=True)) > 30


def test_the_strong_one_changes_colours_moderately():
    ground = Sample(Image.new("RGB", (64, 64), (180, 90, 40)), torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))
    seen = set()
    for seed in range(60):
        image = StrongTransform(64, 64)(ground, random.Random(seed)).image
        # All that is there besides the ground of an image that was zoomed out.
        (colour,) = {colour for _, colour in image.getcolors(64 * 64)} - {(124, 116, 104)}
        red, green, blue = colour
        # What is orange stays orange.
        assert red > green > blue
        seen.add(colour)
    assert len(seen) > 20


def test_an_unknown_strength_is_named():
    with pytest.raises(TrainerError, match="'storng' is not known; it can be none, light, paper, strong"):
        train_transform("storng", 64, 64)


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
