"""What an image file's first and last bytes say: its size, how its pixels are written, and whether it is whole.

JPEG and PNG, which nearly all dumps hold, are read here: opening a file with Pillow takes several times as long,
and says nothing of a file that was cut off. Other formats, and whatever is odd, go through Pillow.
Sources: ITU-T T.81 annex B (JPEG), PNG 3rd edition section 5, Exif 2.32 section 4.6 (orientation).
"""

import os
import struct
import sys
import threading
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_all_start_methods, get_context
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from steps.common.progress import progress
from trainer.data.fingerprint import file_digest
from trainer.data.image_file import MOST_PIXELS, MOST_SEGMENTS, ImageError, open_image

UPRIGHT = 1
HEAD = 4096
TAIL = 512
CHUNK = 500
"""Files that a process is given at once."""
WORTH_PROCESSES = 4 * CHUNK


class Header(NamedTuple):
    """What is known of an image file without decoding it."""

    width: int
    """In px, before the EXIF rotation."""
    height: int
    orientation: int
    """EXIF's: 1 upright, 5 to 8 with the sides changed."""
    kind: str
    """How the pixels are written where it is unusual ("CMYK"), else empty."""
    flaw: str = ""
    """Why the file cannot be used; empty when it can be."""
    too_large: bool = False
    """Whether its header says more than `MOST_PIXELS`."""
    digest: str = ""
    """SHA-256 of the file, where `read_headers` gives the header and the file can be used."""


class _OddError(Exception):
    """Not read here: Pillow is asked."""


def read_headers(paths: Sequence[str]) -> list[Header]:
    """Read the headers of many files, and what tells their content from others', on all cores, with a bar."""
    headers: list[Header] = []
    chunks = [paths[start : start + CHUNK] for start in range(0, len(paths), CHUNK)]
    with progress("checking images", len(paths), unit="images") as advance, _workers(len(paths)) as workers:
        for done in workers.map(_read_chunk, chunks):
            headers += done
            advance(len(done))
    return headers


def _workers(count: int) -> Executor:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    # A forked process starts at once and needs nothing of the program that called; threads serve where there is none.
    if count < WORTH_PROCESSES or cores == 1 or "fork" not in get_all_start_methods() or sys.platform == "darwin":
        return ThreadPoolExecutor(cores)
    return ProcessPoolExecutor(cores, get_context("fork"))


def _read_chunk(paths: Sequence[str]) -> list[Header]:
    return [_with_digest(path, read_header(path)) for path in paths]


def _with_digest(path: str, header: Header) -> Header:
    if header.flaw:
        return header
    try:
        return header._replace(digest=file_digest(Path(path)))
    except OSError as error:
        return _flawed(f"it cannot be read ({error.strerror})")


def read_header(path: str) -> Header:
    """Read the header of a file; what keeps it from being used is its `flaw`."""
    try:
        file = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
        try:
            length = os.fstat(file).st_size
            if not length:
                return _flawed("it is empty")
            header = _read(file, length)
        finally:
            os.close(file)
    except OSError as error:
        return _flawed(f"it cannot be opened ({error.strerror})")
    except (_OddError, struct.error):
        return _ask_pillow(path, length)
    return _too_large(header.width, header.height) if header.width * header.height > MOST_PIXELS else header


def _flawed(why: str) -> Header:
    return Header(0, 0, UPRIGHT, "", why)


def _too_large(width: int, height: int) -> Header:
    return Header(width, height, UPRIGHT, "", f"its header says {width} x {height} pixels", too_large=True)


Read = Callable[[int, int], bytes]
"""Gives bytes of a file: how many, from where."""


def _read(file: int, length: int) -> Header:
    head = os.pread(file, HEAD, 0)
    tail = os.pread(file, TAIL, max(length - TAIL, 0)) if length > HEAD else head[-TAIL:]

    def read(count: int, start: int) -> bytes:
        return head[start : start + count] if start + count <= len(head) else os.pread(file, count, start)

    if head[:2] == b"\xff\xd8":
        header = _jpeg(read)
        whole = tail.endswith(b"\xff\xd9")
    elif head[:8] == b"\x89PNG\r\n\x1a\n":
        header = _png(read, tail)
        whole = tail.endswith(b"IEND\xaeB`\x82")
    else:
        raise _OddError
    # Some cameras write more behind the end: only decoding tells those from files that were cut off.
    if not whole and header.width * header.height <= MOST_PIXELS:
        raise _OddError
    return header


# Frames of every coding process but DHT (C4), JPG (C8) and DAC (CC), which share their numbers.
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_JPEG_KINDS = {1: "greyscale", 3: "", 4: "CMYK"}


def _jpeg(read: Read) -> Header:
    orientation, at = 0, 2
    for _ in range(MOST_SEGMENTS):
        mark, marker, size = struct.unpack(">BBH", read(4, at))
        if mark != 0xFF or marker == 0xFF or size < 2:
            raise _OddError
        if marker in _FRAMES:
            depth, height, width, components = struct.unpack(">BHHB", read(6, at + 4))
            if depth != 8 or not height or not width or components not in _JPEG_KINDS:
                raise _OddError
            return Header(width, height, orientation or UPRIGHT, _JPEG_KINDS[components])
        if marker == 0xE1 and not orientation:
            segment = read(size - 2, at + 4)
            if segment.startswith(b"Exif\0\0"):
                orientation = _exif_orientation(segment[6:])
            elif b"tiff:Orientation" in segment:
                raise _OddError
        at += 2 + size
    raise _OddError


def _exif_orientation(tiff: bytes) -> int:
    order = {b"II": "<", b"MM": ">"}.get(tiff[:2])
    if order is None:
        raise _OddError
    (directory,) = struct.unpack_from(f"{order}I", tiff, 4)
    (entries,) = struct.unpack_from(f"{order}H", tiff, directory)
    for entry in range(directory + 2, directory + 2 + 12 * entries, 12):
        tag, kind, count, value = struct.unpack_from(f"{order}HHIH", tiff, entry)
        if tag == 0x0112:
            if kind != 3 or count != 1:
                raise _OddError
            return value if 1 <= value <= 8 else UPRIGHT
    return UPRIGHT


_PNG_EXIF = (b"Raw profile", b"XML:com.ado")  # Keywords of the texts in which an orientation can hide.
_PNG_KINDS = {0: "greyscale", 2: "", 3: "palette", 4: "alpha channel", 6: "alpha channel"}


def _png(read: Read, tail: bytes) -> Header:
    length, name, width, height, depth, colour = struct.unpack(">I4sIIBB", read(18, 8))
    if length != 13 or name != b"IHDR" or not width or not height or colour not in _PNG_KINDS:
        raise _OddError
    at = 8 + 12 + 13
    for _ in range(MOST_SEGMENTS):
        if name == b"IDAT":
            break
        length, name = struct.unpack(">I4s", read(8, at))
        if name == b"eXIf" or (name in (b"tEXt", b"zTXt", b"iTXt") and read(11, at + 8) in _PNG_EXIF):
            raise _OddError
        at += 12 + length
    else:
        raise _OddError
    if b"eXIf" in tail or any(text in tail for text in _PNG_EXIF):
        raise _OddError
    return Header(width, height, UPRIGHT, "16 bits a channel" if depth == 16 else _PNG_KINDS[colour])


_PILLOW_KINDS = {
    "RGB": "", "YCbCr": "", "1": "greyscale", "L": "greyscale", "P": "palette", "LA": "alpha channel",
    "PA": "alpha channel", "La": "alpha channel", "RGBA": "alpha channel", "RGBa": "alpha channel",
    "RGBX": "", "CMYK": "CMYK", "I": "16 bits a channel", "I;16": "16 bits a channel", "I;16B": "16 bits a channel",
    "I;16L": "16 bits a channel", "I;16N": "16 bits a channel",
}  # fmt: skip


_warnings = threading.Lock()


def _ask_pillow(path: str, length: int) -> Header:
    """Let Pillow read the file, and decode it where nothing else tells whether it is whole."""
    # What warnings are shown belongs to the process, not to a thread.
    with _warnings, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with open_image(path) as image:
                width, height = image.size
                if image.format == "TIFF":
                    # Pillow turns these upright by itself, and some releases of it say so in the size.
                    width, height = (int(image.tag_v2[tag]) for tag in (256, 257))  # type: ignore[attr-defined]
                orientation = image.getexif().get(0x0112, UPRIGHT)
                kind = _PILLOW_KINDS.get(image.mode, f"mode {image.mode}")
                if not _is_whole(image, path, length):
                    image.load()
                return Header(width, height, orientation if orientation in range(1, 9) else UPRIGHT, kind)
        except ImageError as error:
            return Header(0, 0, UPRIGHT, "", error.reason, error.too_large)


def _is_whole(image: Image.Image, path: str, length: int) -> bool:
    """Tell whether a file surely holds all that its header announces, without decoding it."""
    if image.format == "WEBP":
        with open(path, "rb") as file:
            return int.from_bytes(file.read(8)[4:], "little") + 8 <= length
    if image.format == "TIFF":
        tags = image.tag_v2  # type: ignore[attr-defined] # of TiffImageFile
        for starts, sizes in ((273, 279), (324, 325)):
            if starts in tags and sizes in tags:
                return all(map(lambda start, size: start + size <= length, tags[starts], tags[sizes]))
    return False
