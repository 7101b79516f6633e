"""What a zip archive may hold before anything of it is unpacked."""

import os
import stat
import struct
import unicodedata
import zipfile
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path, PurePosixPath

from rich.filesize import decimal

from steps.common.budgets import (
    DEEPEST,
    LONGEST_NAME,
    LONGEST_PATH,
    MANY_FILES,
    MOST_MEMBERS,
    MOST_TIMES,
    SMALL_FILES,
    WORTH_A_LOOK,
)
from steps.common.errors import StepError
from steps.common.messages import printable

LOCAL_HEADER, LOCAL_SIGNATURE = 30, b"PK\x03\x04"
"""Bytes before each member, its name aside, and how they begin (APPNOTE.TXT 4.3.7)."""
DESCRIPTOR = 24
"""Bytes behind a member at most."""


def safe_path(name: str, what: str) -> PurePosixPath:
    """Give the path in the dataset's folder that a dump names.

    Args:
        name: as the archive or the bucket has it.
        what: the named thing in words, for messages.

    Raises:
        StepError: it would lie outside of the folder, or no file can be named so everywhere.
    """
    path = PurePosixPath(name)
    if path.is_absolute() or name[1:2] == ":" or ".." in path.parts or "\\" in name:
        raise StepError(f"{what} would be written outside the dataset's folder: remove it from the dump")
    # Not all that `isprintable` objects to: macOS names screenshots with a narrow no-break space.
    plain = name.isascii() and name.isprintable()
    if not path.parts or (not plain and any(unicodedata.category(sign) in ("Cc", "Cs") for sign in name)):
        raise StepError(f"{what} has a name with control characters or none: rename it in the dump")
    encoded = os.fsencode(name)
    longest = max(map(len, encoded.split(b"/")))
    if len(path.parts) > DEEPEST or len(encoded) > LONGEST_PATH or longest > LONGEST_NAME:
        raise StepError(f"{what} has too long a name or lies too deep: rename it in the dump")
    return path


def members(zipped: zipfile.ZipFile, archive: str, size: int) -> list[tuple[zipfile.ZipInfo, PurePosixPath]]:
    """Give an archive's files, and the path of each in the dataset's folder.

    Args:
        zipped: the open archive.
        archive: its name, for messages.
        size: of the archive in bytes.

    Raises:
        StepError: the archive holds what no dump does: names that lead out, links, devices, passwords, or far more
            than it weighs.
    """
    listed = zipped.infolist()
    if len(listed) > MOST_MEMBERS:
        raise StepError(f"{archive} holds {len(listed)} files, and {MOST_MEMBERS} are the most: no dump has as many")
    found = []
    for member in listed:
        # Python cuts names at a NUL byte, where other programs see the rest.
        name, what = member.orig_filename, f"'{printable(member.orig_filename)}' in {archive}"
        path = safe_path(name, what)
        kind = stat.S_IFMT(member.external_attr >> 16)
        if kind == stat.S_IFLNK:
            raise StepError(f"{what} is a link: put the file itself into the archive")
        if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise StepError(f"{what} is neither a file nor a folder: remove it from the archive")
        if member.flag_bits & 0x1:
            raise StepError(f"{archive} is encrypted: export it without a password")
        if not member.is_dir():
            found.append((member, path))
    if not found:
        raise StepError(f"{archive} holds no files: export the dump again")
    _refuse_overlaps(archive, listed, zipped.start_dir)
    _refuse_unlisted(archive, listed, zipped)
    _refuse_bomb(archive, [member for member, _ in found], size)
    return found


def _refuse_overlaps(archive: str, listed: Sequence[zipfile.ZipInfo], end: int) -> None:
    """Refuse members that share bytes: a small archive can unpack to any size that way (Fifield 2019)."""
    spans = sorted((member.header_offset, member.compress_size, member.orig_filename) for member in listed)
    for (start, size, name), (following, _, _) in pairwise([*spans, (end, 0, "")]):
        if start + LOCAL_HEADER + size > following:
            raise StepError(f"'{printable(name)}' in {archive} overlaps another file: export the dump again")


def _refuse_unlisted(archive: str, listed: Sequence[zipfile.ZipInfo], zipped: zipfile.ZipFile) -> None:
    """Refuse an archive that holds more than its directory lists: the rest of the dump would be missing silently."""
    file = zipped.fp
    assert file is not None
    end = 0
    for start, size in [*sorted((each.header_offset, each.compress_size) for each in listed), (zipped.start_dir, -1)]:
        file.seek(end)
        # Behind a member's bytes there is at most its descriptor, if it has one (APPNOTE.TXT 4.3.9).
        if LOCAL_SIGNATURE in file.read(min(start - end, DESCRIPTOR + len(LOCAL_SIGNATURE))):
            raise StepError(f"{archive} holds more files than its directory lists: export the dump again")
        if size < 0:
            return
        file.seek(start)
        header = file.read(LOCAL_HEADER)
        if len(header) < LOCAL_HEADER or not header.startswith(LOCAL_SIGNATURE):
            raise zipfile.BadZipFile("a file is not where the directory has it")
        end = start + LOCAL_HEADER + sum(struct.unpack("<HH", header[26:])) + size


def _refuse_bomb(archive: str, files: Sequence[zipfile.ZipInfo], packed: int) -> None:
    unpacked = sum(member.file_size for member in files)
    if len(files) > MANY_FILES and unpacked < SMALL_FILES * len(files):
        raise StepError(f"{archive} holds {len(files)} files of {unpacked} bytes in all: no dump of images does")
    if unpacked > MOST_TIMES * packed and unpacked > WORTH_A_LOOK:
        raise StepError(f"{archive} unpacks from {decimal(packed)} to {decimal(unpacked)}: no dump of images does")


def refuse_same_names(paths: Sequence[PurePosixPath], archive: str, folder: Path) -> None:
    """Refuse files whose names are one to a file system that knows neither case nor Unicode forms.

    Args:
        paths: the files in the dataset's folder.
        archive: the dump's name, for messages.
        folder: an existing folder where they are about to lie.

    Raises:
        StepError: two names are one, and `folder` is on such a file system.
    """
    seen: dict[str, PurePosixPath] = {}
    for path in paths:
        other = seen.setdefault(unicodedata.normalize("NFC", str(path)).casefold(), path)
        if other != path and _folds_case(folder):
            raise StepError(
                f"{archive} holds '{printable(str(other))}' and '{printable(str(path))}', which are one name on the "
                f"file system of {folder}: rename one"
            )


def _folds_case(folder: Path) -> bool:
    probe = folder / "Case.probe"
    probe.touch()
    try:
        return (folder / "cASE.PROBE").exists()
    finally:
        probe.unlink()
