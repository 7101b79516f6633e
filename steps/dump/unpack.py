"""Unpack a dump's archive into the dataset's folder."""

import shutil
import zipfile
import zlib
from pathlib import Path

from rich.filesize import decimal

from steps.common.errors import StepError
from steps.dataset.findings import printable
from steps.dump.archive import members, refuse_same_names
from steps.dump.target import STATE_DIR, empty_scratch, refuse_ours, settle


def unpack(archive: Path, dataset_dir: Path) -> tuple[int, int, int]:
    """Unpack a zip; give how many files it holds, how many were here already, and their bytes."""
    kept = 0
    try:
        with zipfile.ZipFile(archive) as zipped:
            found = members(archive, zipped)
            for _, path in found:
                refuse_ours(path, f"'{printable(str(path))}' in {archive}")
            _refuse_full_disk(archive, sum(member.file_size for member, _ in found), dataset_dir)
            targets = [dataset_dir / path for _, path in found]
            settle(targets, dataset_dir)
            refuse_same_names([path for _, path in found], str(archive), dataset_dir / STATE_DIR)
            # Where a killed run's leavings are not taken for a part of the dump.
            unfinished = empty_scratch(dataset_dir) / "member"
            for (member, _), target in zip(found, targets, strict=True):
                if target.is_file() and target.stat().st_size == member.file_size and _crc(target) == member.CRC:
                    kept += 1
                    continue
                with zipped.open(member) as source, unfinished.open("wb") as file:
                    shutil.copyfileobj(source, file, 1024 * 1024)
                target.parent.mkdir(parents=True, exist_ok=True)
                unfinished.replace(target)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
        raise StepError(f"{archive} is not a readable zip archive ({error}): export the dump again") from None
    return len(found), kept, sum(member.file_size for member, _ in found)


def _refuse_full_disk(archive: Path, size: int, dataset_dir: Path) -> None:
    dataset_dir.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(dataset_dir).free
    if size > free:
        raise StepError(f"{archive} needs {decimal(size)} in {dataset_dir}, {decimal(free)} are free: enlarge it")


def _crc(path: Path) -> int:
    crc = 0
    with path.open("rb") as file:
        while block := file.read(1024 * 1024):
            crc = zlib.crc32(block, crc)
    return crc
