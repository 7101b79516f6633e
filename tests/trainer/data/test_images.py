from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.trainer.drawing import quadrants
from trainer.data.images import read_image, read_size, read_thumbnail, to_rgb
from trainer.errors import TrainerError


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
def test_images_are_turned_upright(tmp_path: Path, orientation: int, suffix: str):
    upright = quadrants(64, 48)
    # What a camera held so would have written (EXIF orientation, table 4): the inverse of what a viewer does.
    stored = {
        1: [],
        2: [Image.Transpose.FLIP_LEFT_RIGHT],
        3: [Image.Transpose.ROTATE_180],
        4: [Image.Transpose.FLIP_TOP_BOTTOM],
        5: [Image.Transpose.TRANSPOSE],
        6: [Image.Transpose.ROTATE_90],
        7: [Image.Transpose.TRANSVERSE],
        8: [Image.Transpose.ROTATE_270],
    }[orientation]
    turned = upright
    for step in stored:
        turned = turned.transpose(step)
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = tmp_path / f"turned.{suffix}"
    turned.save(file, exif=exif, **({"quality": 95} if suffix in ("jpg", "webp") else {}))

    image = read_image(file)
    assert image.size == read_size(file) == (64, 48)
    assert np.abs(np.asarray(image, dtype=int) - np.asarray(upright, dtype=int)).mean() < 3
    grey, size = read_thumbnail(file, 8)
    assert size == (64, 48)
    assert grey[1, 1] > grey[1, 6] > grey[6, 1] > grey[6, 6]


def test_a_damaged_orientation_is_ignored(tmp_path: Path):
    file = tmp_path / "one.jpg"
    quadrants(64, 48).save(file, exif=b"Exif\0\0not a TIFF head")
    assert read_image(file).size == read_size(file) == (64, 48)


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_sixteen_bits_are_scaled_to_the_brightest(tmp_path: Path, suffix: str):
    # Twelve bits in sixteen, as industrial cameras write them.
    levels = np.linspace(0, 4095, 64 * 48).reshape(48, 64).astype(np.uint16)
    Image.fromarray(levels).save(tmp_path / f"deep.{suffix}")
    shown = np.asarray(read_image(tmp_path / f"deep.{suffix}"))
    assert shown.shape == (48, 64, 3)
    assert np.abs(shown[..., 0] - levels / 4095 * 255).max() <= 0.5
    assert (shown[..., 0] == shown[..., 2]).all()


def test_deeper_grey_and_floats_are_scaled_too():
    assert np.asarray(to_rgb(Image.fromarray(np.array([[0, 50_000, 100_000]], np.int32))))[0, :, 1].tolist() == [
        0,
        128,
        255,
    ]
    floats = np.array([[-1.0, 0.25, 0.5, np.nan]], np.float32)
    assert np.asarray(to_rgb(Image.fromarray(floats)))[0, :, 0].tolist() == [0, 128, 255, 0]
    assert np.asarray(to_rgb(Image.fromarray(np.zeros((2, 2), np.int32)))).max() == 0


@pytest.mark.parametrize("mode", ["1", "L", "LA", "RGBA", "P", "CMYK", "YCbCr"])
def test_any_mode_keeps_its_colours(mode: str):
    grey = quadrants(64, 48).convert("L").point(lambda level: 255 * (level > 100))
    shown = np.asarray(to_rgb(grey.convert(mode)))
    assert shown.shape == (48, 64, 3)
    assert np.abs(shown.astype(int) - np.asarray(grey, dtype=int)[..., None]).max() <= 2


def test_cmyk_photographs_come_out_positive(tmp_path: Path):
    Image.new("RGB", (32, 32), (250, 40, 30)).convert("CMYK").save(tmp_path / "print.jpg", quality=95)
    assert read_image(tmp_path / "print.jpg").getpixel((16, 16)) == pytest.approx((250, 40, 30), abs=4)


def test_alpha_is_dropped_and_colours_stay(tmp_path: Path):
    Image.new("RGBA", (4, 4), (10, 200, 30, 0)).save(tmp_path / "clear.png")
    assert read_image(tmp_path / "clear.png").getpixel((0, 0)) == (10, 200, 30)
    palette = Image.new("P", (4, 4), 1)
    palette.putpalette([0, 0, 0, 10, 200, 30])
    palette.save(tmp_path / "palette.png", transparency=bytes([255, 7]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_image(tmp_path / "palette.png").getpixel((0, 0)) == (10, 200, 30)


@pytest.mark.parametrize("read", [read_image, read_size, lambda file: read_thumbnail(file, 8)])
def test_what_is_no_image_is_named(tmp_path: Path, read):
    (tmp_path / "one.png").write_bytes(b"not an image")
    with pytest.raises(TrainerError, match=r"one\.png cannot be read .*; remove or replace it$"):
        read(tmp_path / "one.png")


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_a_file_that_was_cut_off_is_named(tmp_path: Path, suffix: str):
    file = tmp_path / f"half.{suffix}"
    Image.effect_noise((200, 200), 80).convert("RGB").save(file)
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(TrainerError, match=rf"half\.{suffix} cannot be read"):
        read_image(file)
    with pytest.raises(TrainerError, match=rf"half\.{suffix} cannot be read"):
        read_thumbnail(file, 8)
