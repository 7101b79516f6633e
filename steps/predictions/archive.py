"""Zips as CVAT takes them: one file in each."""

import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO


@contextmanager
def only_file(target: Path, name: str) -> Iterator[IO[bytes]]:
    """Give a file to write to, the only one in a zip; the same content makes the same bytes."""
    # Its time is the format's first, 1980.
    member = zipfile.ZipInfo(name)
    member.compress_type = zipfile.ZIP_DEFLATED
    with zipfile.ZipFile(target, "w") as zipped, zipped.open(member, "w", force_zip64=True) as file:
        yield file
