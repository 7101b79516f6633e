"""Headers of image files, against Pillow."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageOps, PngImagePlugin

from steps.preparation import image_headers as headers
from steps.preparation.image_headers import read_header, read_headers


def noise(size: tuple[int, int] = (37, 23), mode: str = "RGB") -> Image.Image:
    return Image.effect_noise(size, 60).convert(mode)


def exif(orientation: int) -> bytes:
    tags = Image.Exif()
    tags[0x010F] = "a maker"
    tags[0x0112] = orientation
    return tags.tobytes()


def check(path: Path, kind: str = "") -> None:
    """Compare with what Pillow makes of the file when it turns it upright, as the trainer does."""
    header = read_header(str(path))
    assert (header.flaw, header.kind) == ("", kind)
    with Image.open(path) as image:
        upright = ImageOps.exif_transpose(image)
    size = (header.width, header.height)
    assert upright.size == (size[::-1] if header.orientation >= 5 else size)


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"quality": 1}, {"subsampling": 0}, {"optimize": True}])
@pytest.mark.parametrize("orientation", [None, 1, 3, 6, 8])
def test_jpeg(tmp_path: Path, options: dict[str, Any], orientation: int | None) -> None:
    path = tmp_path / "x.jpg"
    noise().save(path, **options, **({"exif": exif(orientation)} if orientation else {}))
    check(path)
    assert read_header(str(path)).orientation == (orientation or 1)


@pytest.mark.parametrize("profile", [100, 70_000, 300_000])
def test_frame_that_lies_far_behind(tmp_path: Path, profile: int) -> None:
    noise().save(tmp_path / "x.jpg", icc_profile=bytes(profile), exif=exif(6), comment=b"x" * 60_000)
    check(tmp_path / "x.jpg")


def test_both_byte_orders(tmp_path: Path) -> None:
    for order, content in (
        ("little", b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0"),
        ("big", b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"),
    ):
        path = tmp_path / f"{order}.jpg"
        noise().save(path, exif=b"Exif\0\0" + content)
        check(path)
        assert read_header(str(path)).orientation == 6


def test_second_exif_segment_does_not_count(tmp_path: Path) -> None:
    path = tmp_path / "x.jpg"
    noise().save(path, exif=exif(6))
    first, second = path.read_bytes(), b"Exif\0\0" + exif(3)[6:]
    end = 4 + int.from_bytes(first[4:6], "big")
    if first[2:4] == b"\xff\xe0":  # JFIF's own segment, then the first of EXIF.
        end += 2 + int.from_bytes(first[end + 2 : end + 4], "big")
    segment = b"\xff\xe1" + (len(second) + 2).to_bytes(2, "big") + second
    path.write_bytes(first[:end] + segment + first[end:])
    check(path)
    assert read_header(str(path)).orientation == 6


@pytest.mark.parametrize(
    "content",
    [b"Exif\0\0", b"Exif\0\0XX*\0\x08\0\0\0", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0II*\0\x08\0\0\0\xff\xff"],
)
def test_broken_exif_is_upright(tmp_path: Path, content: bytes) -> None:
    noise().save(tmp_path / "x.jpg", exif=content)
    header = read_header(str(tmp_path / "x.jpg"))
    assert (header.width, header.height, header.orientation, header.flaw) == (37, 23, 1, "")


def test_orientation_in_xmp(tmp_path: Path) -> None:
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    noise().save(tmp_path / "x.jpg", xmp=xmp)
    check(tmp_path / "x.jpg")
    assert read_header(str(tmp_path / "x.jpg")).orientation == 6


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "1", "RGBA", "LA", "I;16"])
@pytest.mark.parametrize("orientation", [None, 5])
def test_png(tmp_path: Path, mode: str, orientation: int | None) -> None:
    image = Image.new("I;16", (37, 23), 900) if mode == "I;16" else noise(mode="L").convert("RGB").convert(mode)
    path = tmp_path / "x.png"
    image.save(path, **({"exif": exif(orientation)} if orientation else {}))
    kinds = {"RGB": "", "L": "greyscale", "1": "greyscale", "P": "palette", "I;16": "16 bits a channel"}
    check(path, kinds.get(mode, "alpha channel"))
    assert read_header(str(path)).orientation == (orientation or 1)


def test_png_with_texts(tmp_path: Path) -> None:
    texts = PngImagePlugin.PngInfo()
    texts.add_text("Comment", "x" * 10_000)
    texts.add_itxt("Title", "größe")
    noise().save(tmp_path / "x.png", pnginfo=texts)
    check(tmp_path / "x.png")


@pytest.mark.parametrize("suffix", ["bmp", "gif", "tif", "webp"])
def test_other_formats(tmp_path: Path, suffix: str) -> None:
    noise().save(tmp_path / f"x.{suffix}")
    check(tmp_path / f"x.{suffix}", "palette" if suffix == "gif" else "")


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif", "bmp", "gif"])
def test_whatever_is_cut_or_flipped_raises_nothing(tmp_path: Path, suffix: str) -> None:
    draw = random.Random(0)
    path = tmp_path / f"x.{suffix}"
    noise().save(path, **({"exif": exif(6)} if suffix in ("jpg", "png", "webp", "tif") else {}))
    whole = path.read_bytes()
    for _ in range(300):
        content = bytearray(whole[: draw.randrange(len(whole))] if draw.random() < 0.5 else whole)
        for _ in range(draw.randrange(4)):
            if content:
                content[draw.randrange(min(len(content), 300))] = draw.randrange(256)
        path.write_bytes(content)
        header = read_header(str(path))
        assert header.flaw or header.width > 0 < header.height


def test_missing_and_forbidden(tmp_path: Path) -> None:
    assert "cannot be opened" in read_header(str(tmp_path / "x.jpg")).flaw
    assert read_header(str(tmp_path)).flaw


def test_many_are_in_order_with_processes_and_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = []
    for number in range(60):
        paths.append(str(tmp_path / f"{number}.png"))
        Image.new("RGB", (1 + number, 5)).save(paths[-1])
    monkeypatch.setattr(headers, "CHUNK", 7)
    expected = [read_header(path) for path in paths]
    assert [header._replace(digest="") for header in read_headers(paths)] == expected
    monkeypatch.setattr(headers, "WORTH_PROCESSES", 1)
    assert [header._replace(digest="") for header in read_headers(paths)] == expected
    assert read_headers([]) == []
