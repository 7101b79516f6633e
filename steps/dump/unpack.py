"""Unpack a dump's archive into the dataset's folder."""

import lzma
import shutil
import struct
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from steps.common.errors import StepError
from steps.common.messages import printable
from steps.dump.archive import members, refuse_same_names
from steps.dump.journal import Fetched, Journal, Version
from steps.dump.target import (
    STATE_DIR,
    empty_scratch,
    listed,
    refuse_full_disk,
    refuse_ours,
    remove_archive,
    settle,
)

DAMAGE = (
    ArithmeticError, EOFError, LookupError, OSError, RuntimeError, ValueError, lzma.LZMAError, struct.error, zlib.error,
)  # fmt: skip
"""What Python's module raises on an archive that is damaged, or made to do damage, beside its own exception."""


def unpacked(version: Version, dataset_dir: Path, folder: str = "") -> Fetched | None:
    """Give what an earlier run unpacked from this version of an archive; None unless all of it is there as it was."""
    files = [dataset_dir / name for name in listed(dataset_dir) if not folder or name.startswith(f"{folder}/")]
    journal = Journal(dataset_dir)
    if not files or not all(journal.holds(path, version) for path in files):
        return None
    remove_archive(dataset_dir)
    return Fetched(len(files), len(files), sum(path.stat().st_size for path in files if path.is_file()))


def unpack(
    archive: Path, shown: str, version: Version, dataset_dir: Path, folder: str = "", beside: Sequence[Path] = ()
) -> Fetched:
    """Unpack a zip; files that are there already, whole, are kept.

    Args:
        archive: the file.
        shown: the archive's name in messages.
        version: of the archive, for the journal.
        dataset_dir: where the files go.
        folder: below it, where the archive is one of several.
        beside: files of the others.

    Raises:
        StepError: the archive is broken or unsafe, or the disk is too small.
    """
    try:
        with _readable(), zipfile.ZipFile(archive) as zipped, Journal(dataset_dir) as journal:
            found = members(zipped, shown, archive.stat().st_size)
            for _, path in found:
                refuse_ours(path, f"'{printable(str(path))}' in {shown}")
            targets = [dataset_dir / folder / path for _, path in found]
            settle([*targets, *beside], dataset_dir)
            # In a folder where what a killed run left behind is not taken for a part of the dump.
            unfinished = empty_scratch(dataset_dir) / "member"
            refuse_same_names([path for _, path in found], shown, dataset_dir / STATE_DIR)
            missing = []
            for (member, _), target in zip(found, targets, strict=True):
                if journal.holds(target, version):
                    continue
                if target.is_file() and target.stat().st_size == member.file_size and _crc(target) == member.CRC:
                    journal.add(target, version)
                else:
                    missing.append((member, target))
            refuse_full_disk(sum(member.file_size for member, _ in missing), dataset_dir)
            for member, target in missing:
                with zipped.open(member) as source, unfinished.open("wb") as file:
                    shutil.copyfileobj(source, file, 1024 * 1024)
                target.parent.mkdir(parents=True, exist_ok=True)
                unfinished.replace(target)
                journal.add(target, version)
    except zipfile.BadZipFile as error:
        remove_archive(dataset_dir)
        reason = " ".join(str(error).replace(str(archive), shown).split())
        raise StepError(f"{shown} is not a readable zip archive ({reason}): export the dump again") from None
    # Only now: a run that is killed before continues without another download.
    remove_archive(dataset_dir)
    return Fetched(len(found), len(found) - len(missing), sum(member.file_size for member, _ in found))


@contextmanager
def _readable() -> Iterator[None]:
    """Make one exception of `DAMAGE`."""
    try:
        yield
    except (StepError, zipfile.BadZipFile):
        raise
    # bzip2 and lzma call damage an OSError without a number; a disk's has one.
    except DAMAGE as error:
        if isinstance(error, OSError) and error.errno:
            raise
        raise zipfile.BadZipFile(str(error) or type(error).__name__) from error


def _crc(path: Path) -> int:
    crc = 0
    with path.open("rb") as file:
        while block := file.read(1024 * 1024):
            crc = zlib.crc32(block, crc)
    return crc
