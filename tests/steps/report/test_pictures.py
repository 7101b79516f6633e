"""Thumbnails, and labels that can be read."""

from __future__ import annotations

import base64
import io
import random
from pathlib import Path

import pytest
from PIL import Image, ImageDraw, ImageOps

from steps.report.matching import Box, ValImage, match
from steps.report.pictures import picture
from steps.report.reading import Thresholds

# How a camera stored the upright picture, for each value of EXIF's orientation.
STORED = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("told", [(160, 100), (100, 160)])
def test_boxes_lie_on_the_upright_image(tmp_path: Path, orientation: int, told: tuple[int, int]) -> None:
    upright = Image.new("RGB", (160, 100), "black")
    ImageDraw.Draw(upright).rectangle([20, 10, 59, 39], fill="red")
    how = STORED[orientation]
    stored = upright if how is None else upright.transpose(how)
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(tmp_path / "a.png", exif=exif)
    assert ImageOps.exif_transpose(Image.open(tmp_path / "a.png")).tobytes() == upright.tobytes()
    # Whatever size the annotation file tells: the trainer goes by the image.
    image = ValImage(1, "a.png", *told, truth=[Box(1, 20, 10, 40, 30, 1200)])
    match(image, Thresholds(0.5))
    drawn = picture(image, "", tmp_path, {1: "a"})
    with Image.open(io.BytesIO(base64.b64decode(drawn["uri"].split(",", 1)[1]))) as thumbnail:
        shown = thumbnail.convert("RGB").resize([round(side) for side in drawn["view"]])
    (box,) = drawn["truth"]
    x, y, w, h = (box[key] for key in "xywh")

    def red(px: float, py: float) -> bool:
        value = shown.getpixel((px, py))
        assert isinstance(value, tuple)
        return value[0] > 128

    inside = [(x + 8, y + 8), (x + w - 8, y + h - 8), (x + w - 8, y + 8), (x + 8, y + h - 8)]
    outside = [(x - 8, y + 8), (x + w + 8, y + h - 8), (x + 8, y - 8), (x + 8, y + h + 8)]
    assert all(red(*point) for point in inside)
    assert not any(red(*point) for point in outside)


def test_labels_do_not_cover_each_other_and_errors_come_first(tmp_path: Path) -> None:
    rng = random.Random(0)

    def boxes(category: int, count: int, **more: float) -> list[Box]:
        return [Box(category, rng.uniform(0, 350), rng.uniform(0, 350), 40, 40, 1600, **more) for _ in range(count)]

    image = ValImage(1, "none.png", 400, 400, truth=boxes(1, 5), predictions=boxes(2, 60, score=0.9))
    image.truth += [Box(2, b.x, b.y, b.w, b.h, b.area) for b in image.predictions[:55]]
    match(image, Thresholds(0.5))
    assert (image.missed, image.false_positives) == (5, 5)
    drawn = picture(image, "", tmp_path, {1: "白血球", 2: "erythrocyte"})
    rows = [box for box in drawn["truth"] + drawn["predictions"] if box["label"] and "label_x" in box]
    areas = []
    for box in rows:
        width = sum(12 if letter > "\u3000" else 6.5 for letter in box["label"])
        areas.append((box["label_x"], box["label_y"] - 10, box["label_x"] + width, box["label_y"] + 1))
        assert areas[-1][0] >= 0
        assert areas[-1][1] >= 0
        assert areas[-1][3] <= drawn["view"][1]
    assert not [
        (a, b)
        for place, a in enumerate(areas)
        for b in areas[:place]
        if a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
    ]
    states = [box["state"] for box in rows]
    assert states.count("missed") == 5
    assert states.count("wrong") >= 4
    assert 10 < states.count("right") < 55
