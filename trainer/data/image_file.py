"""The one door for image files: the formats that CVAT writes, within limits, and one exception for all that is wrong.

Pillow reads some forty formats more, recognises them by content rather than by name, and starts Ghostscript for EPS.
Nothing else in this project opens an image.
"""

from __future__ import annotations

import io
import mmap
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image, UnidentifiedImageError

from trainer.errors import TrainerError

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF")
"""As Pillow names them; MPO, a JPEG of several pictures, comes as JPEG."""
MOST_PIXELS = 178_956_970
"""Pillow's own limit: a quarter of a gigabyte in RGB, twice."""
MOST_SEGMENTS = 10_000
"""Parts of a header that are looked at one by one."""
MOST_READS = 50_000
"""Reads of a file, beside one for every 64 bytes: a header of millions of empty parts takes more."""
MOST_READ_AGAIN = 8
"""How many times its size is read of a file: the tags of a TIFF may all point to the same bytes."""
MOST_EXIF = 100_000
"""Bytes of EXIF data, whose tags may do the same; a JPEG holds 65,533."""
MOST_SCANNED = 3_000_000_000
"""Pixels times scans of a JPEG: each scan of a progressive one, empty or not, passes over the whole picture."""

# Images of up to twice as many pixels are read, and the prepare step says which are large.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


class ImageError(TrainerError):
    """A file that is no image to work with."""

    def __init__(self, message: str, reason: str = "", too_large: bool = False) -> None:
        # From a worker's process torch brings the message alone.
        super().__init__(message)
        self.reason = reason
        """In words, without the file."""
        self.too_large = too_large
        """Whether it has more than `MOST_PIXELS`."""


def _refusal(file: str | Path | bytes, reason: str, *, too_large: bool = False) -> ImageError:
    name = f"of {len(file)} bytes" if isinstance(file, bytes) else file
    return ImageError(f"image {name} cannot be read ({reason}); remove or replace it", reason, too_large)


@contextmanager
def open_image(file: str | Path | bytes) -> Iterator[Image.Image]:
    """Opens an image, not decoded yet; what is raised inside the `with` counts as the file's fault too.

    Args:
        file: its path, or what it holds.

    Raises:
        ImageError: the file cannot be opened, is of none of `FORMATS`, is damaged, or passes one of the limits here.
    """
    try:
        with _Metered(file) as stream, Image.open(stream, formats=FORMATS) as image:
            _check(image, file)
            yield image
    except ImageError:
        raise
    except Image.DecompressionBombError:
        raise _refusal(file, f"its header says more than {MOST_PIXELS:,} pixels", too_large=True) from None
    except UnidentifiedImageError:
        raise _refusal(file, f"it is none of {', '.join(FORMATS)}") from None
    except MemoryError:
        raise _refusal(file, "it takes more memory than there is") from None
    # Decoders raise what they please on broken files, IndexError and struct.error among others.
    except Exception as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise _refusal(file, " ".join(reason.split()) or type(error).__name__) from None


def _check(image: Image.Image, file: str | Path | bytes) -> None:
    pixels = image.width * image.height
    if pixels > MOST_PIXELS:
        raise _refusal(file, f"its header says {image.width} x {image.height} pixels", too_large=True)
    if len(image.info.get("exif") or b"") > MOST_EXIF:
        raise _refusal(file, f"it has more than {MOST_EXIF:,} bytes of EXIF data")
    if image.format in ("JPEG", "MPO") and pixels * _scans(file) > MOST_SCANNED:
        raise _refusal(file, "its picture is written in far too many scans")


def _scans(file: str | Path | bytes) -> int:
    """How often the marker of a scan (ITU-T T.81, B.1.1.3: SOS) occurs, in thumbnails too."""
    if isinstance(file, bytes):
        return file.count(b"\xff\xda")
    count, at = 0, -1
    with open(file, "rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
        while (at := content.find(b"\xff\xda", at + 1)) >= 0:
            count += 1
    return count


class _Metered(io.BufferedReader):
    """A file that ends with an error where it is read too often, or too much of it."""

    def __init__(self, file: str | Path | bytes) -> None:
        # BufferedReader takes what has a raw file's methods, as BytesIO has.
        raw: Any = io.BytesIO(file) if isinstance(file, bytes) else io.FileIO(file)
        super().__init__(raw)
        size = len(file) if isinstance(file, bytes) else os.fstat(raw.fileno()).st_size
        self._reads = MOST_READS + size // 64
        self._bytes = MOST_READ_AGAIN * size + (1 << 20)

    def read(self, size: int | None = -1, /) -> bytes:
        content = super().read(size)
        self._reads -= 1
        self._bytes -= len(content)
        if self._reads < 0 or self._bytes < 0:
            raise ValueError("its header has far too many parts")
        return content
