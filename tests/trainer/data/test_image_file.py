"""The one door for images: what comes through, what does not, and that there is no other."""

from __future__ import annotations

import contextlib
import re
import struct
import zlib
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image, features

from steps.common.errors import StepError
from steps.formats.mask_image import read_mask
from steps.preparation.image_headers import read_header
from steps.report.pictures import _thumbnail
from trainer.data.image_file import FORMATS, ImageError, open_image
from trainer.data.images import read_image, read_size, read_thumbnail

PROJECT = Path(__file__).parents[3]
EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n%%EOF\n"


def saved(kind: str, **options: object) -> bytes:
    file = BytesIO()
    Image.new("RGB", (16, 8), (200, 30, 40)).save(file, kind, **options)
    return file.getvalue()


def test_nothing_else_opens_images() -> None:
    other = re.compile(r"\bImage\.open\(|decode_(image|jpeg|png|webp|gif)|\bcv2\b|torchvision\.io|imageio|imread")
    found = [
        f"{path.relative_to(PROJECT)}:{number}"
        for package in ("pipelines", "steps", "trainer", "benchmarks")
        for path in sorted((PROJECT / package).rglob("*.py"))
        for number, line in enumerate(path.read_text("utf-8").splitlines(), 1)
        if other.search(line)
    ]
    door = [place for place in found if place.startswith("trainer/data/image_file.py:")]
    assert len(door) == 1
    assert found == door


@pytest.mark.parametrize("kind", FORMATS)
def test_formats_that_cvat_writes(tmp_path: Path, kind: str) -> None:
    (tmp_path / "x.jpg").write_bytes(saved(kind))
    with open_image(tmp_path / "x.jpg") as image:
        assert image.format == kind
        assert image.convert("RGB").size == (16, 8)


def test_mpo_is_a_jpeg(tmp_path: Path) -> None:
    frame = Image.new("RGB", (16, 8))
    frame.save(tmp_path / "x.jpg", "MPO", save_all=True, append_images=[frame])
    assert read_image(tmp_path / "x.jpg").size == (16, 8)


READS: list[Callable[[Path], object]] = [
    read_image,
    read_size,
    lambda path: read_thumbnail(path, 8),
    read_mask,
    lambda path: read_header(str(path)),
    lambda path: _thumbnail(path, 8, 8),
]


@pytest.mark.parametrize("read", READS)
def test_ghostscript_is_not_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read: Callable[[Path], object]
) -> None:
    program, started = tmp_path / "gs", tmp_path / "started"
    program.write_text(f"#!/bin/sh\necho 10.0\n: > {started}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setattr("PIL.EpsImagePlugin.gs_binary", None)
    (tmp_path / "x.jpg").write_bytes(EPS)
    with contextlib.suppress(StepError, ImageError):
        read(tmp_path / "x.jpg")
    assert not started.exists()


@pytest.mark.parametrize("kind", ["PPM", "TGA", "PCX", "ICO", "JPEG2000", "AVIF"])
def test_other_formats_are_refused(tmp_path: Path, kind: str) -> None:
    if kind == "AVIF" and not features.check("avif"):
        pytest.skip("this Pillow has no AVIF")
    (tmp_path / "x.png").write_bytes(saved(kind))
    with pytest.raises(ImageError, match=r"x\.png cannot be read \(it is none of JPEG"):
        read_image(tmp_path / "x.png")


def chunk(name: bytes, content: bytes = b"") -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def png(*chunks: bytes) -> bytes:
    whole = saved("PNG")
    return whole[:33] + b"".join(chunks) + whole[33:]


def tiff_of_tags(count: int, size: int) -> bytes:
    """Each of `count` tags is the same `size` bytes of the file."""
    head = b"II*\0" + struct.pack("<IH", 8, count)
    shape = [struct.pack("<HHII", tag, 4, 1, 16) for tag in (256, 257)]
    tags = shape + [struct.pack("<HHII", 300 + tag, 7, size, 8) for tag in range(count - 2)]
    return head + b"".join(tags) + b"\0" * max(size - 12 * count, 4)


# Each as large as the budget of `steps.common.budgets` lets it be, which is 10 MB.
BOMBS = {
    "jpeg of empty segments": saved("JPEG")[:2] + b"\xff\xe5\0\2" * 2_499_000 + saved("JPEG")[2:],
    "png of empty chunks": png(*[chunk(b"teSt")] * 833_000),
    "gif of empty comments": saved("GIF")[:13] + b"!\xfe\1x\0" * 1_999_000 + saved("GIF")[13:],
    "tiff whose tags share bytes": tiff_of_tags(60_000, 9_990_000),
    "png whose exif tags share bytes": png(chunk(b"eXIf", tiff_of_tags(20_000, 9_990_000))),
}


@pytest.mark.parametrize("content", BOMBS.values(), ids=BOMBS)
def test_headers_without_end(tmp_path: Path, content: bytes) -> None:
    assert 9_900_000 < len(content) < 10_000_000
    (tmp_path / "x.png").write_bytes(content)
    for read in (read_image, read_size):
        with pytest.raises(ImageError, match=r"far too many parts|bytes of EXIF"):
            read(tmp_path / "x.png")
    assert read_header(str(tmp_path / "x.png")).flaw


def test_jpeg_of_scans_without_end(tmp_path: Path) -> None:
    file = BytesIO()
    Image.new("RGB", (8000, 8000)).save(file, "JPEG", progressive=True)
    whole = file.getvalue()
    scan = whole[(start := whole.rindex(b"\xff\xda")) : -2]
    (tmp_path / "x.jpg").write_bytes(whole[:start] + scan[:20] * 60 + whole[start:])
    with pytest.raises(ImageError, match="too many scans"):
        read_image(tmp_path / "x.jpg")


def test_many_pixels_are_told_from_damage(tmp_path: Path) -> None:
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    (tmp_path / "x.png").write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IEND"))
    with pytest.raises(ImageError, match="pixels") as caught, open_image(tmp_path / "x.png"):
        pass
    assert caught.value.too_large
