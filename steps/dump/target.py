"""The folder that a dump is brought into: what may lie in it, what is unfinished, and what was there before."""

import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from rich.filesize import decimal

from steps.common.errors import StepError
from steps.common.files import parse_json, read_json, write_json
from steps.dataset.layout import MOVED_ASIDE
from steps.dump.archive import safe_path

STATE_DIR = ".fetch"
"""Folder in the dataset's that holds unfinished files, archives, and the journal of what was fetched."""
LOCK = f"{STATE_DIR}/lock"
"""File of the lock that fetch and prepare hold while they write to the dataset's folder."""
ARCHIVE = f"{STATE_DIR}/dump.zip"
"""Where a bucket's archive lies until it is unpacked."""
LISTING = f"{STATE_DIR}/files.json"
"""Names of the dump's files."""
_SOURCE = f"{STATE_DIR}/source.json"
"""Where the dump came from."""


def note_source(source: str, dataset_dir: Path) -> None:
    """Write down where the dump in a folder came from."""
    write_json(dataset_dir / _SOURCE, source)


def dump_name(dataset_dir: Path) -> str:
    """Give the address or path that the dump was fetched from, or else the folder's own."""
    try:
        source = parse_json((dataset_dir / _SOURCE).read_bytes())
    except (OSError, ValueError):
        source = None
    return source if isinstance(source, str) else str(dataset_dir)


@contextmanager
def nothing_in_the_way(dataset_dir: Path) -> Iterator[None]:
    """Say in one line which path keeps a file of the dump from being written."""
    try:
        yield
    except (FileExistsError, IsADirectoryError, NotADirectoryError) as error:
        path = error.filename2 or error.filename
        raise StepError(f"{path} is in the way of the dump's files: empty {dataset_dir}") from None


def safe_target(name: str, what: str) -> PurePosixPath:
    """Give the path in the dataset's folder for a file of a dump, as `safe_path` does.

    Raises:
        StepError: it would lie outside of the folder, or in the fetch step's own.
    """
    path = safe_path(name, what)
    refuse_ours(path, what)
    return path


def refuse_ours(path: PurePosixPath, what: str) -> None:
    """Refuse a file of a dump in the fetch step's own folder."""
    if path.parts[0] == STATE_DIR:
        raise StepError(f"{what} lies in '{STATE_DIR}', which is the fetch step's own folder: rename it in the dump")


def listed(dataset_dir: Path) -> list[str]:
    """Name the files that the dump of the last run has."""
    listing = dataset_dir / LISTING
    return read_json(listing, "the fetch step") if listing.is_file() else []


def settle(paths: Sequence[Path], dataset_dir: Path) -> None:
    """Note which files the dump will have, and remove those of an earlier, other one.

    Raises:
        StepError: two of the files cannot lie side by side.
    """
    files, folders = set(paths), {path.parent for path in paths}
    if len(files) < len(paths):
        twice = next(path for path, count in Counter(paths).items() if count > 1)
        raise StepError(f"two files of the dump would be written to {twice}: rename one")
    if clash := next((each for folder in folders for each in (folder, *folder.parents) if each in files), None):
        raise StepError(f"the dump holds {clash} both as a file and as a folder: rename one")
    names = sorted(path.relative_to(dataset_dir).as_posix() for path in paths)
    for name in listed(dataset_dir):
        if dataset_dir / name not in files:
            (dataset_dir / name).unlink(missing_ok=True)
            if name in MOVED_ASIDE and MOVED_ASIDE[name] not in names:
                (dataset_dir / MOVED_ASIDE[name]).unlink(missing_ok=True)
    # Written before the first file arrives: whatever a killed run leaves behind is listed.
    write_json(dataset_dir / LISTING, names, indent=False)


def empty_scratch(dataset_dir: Path) -> Path:
    """Give the folder of unfinished files, without those of a run that was killed."""
    scratch = dataset_dir / STATE_DIR / "unfinished"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    return scratch


def remove_archive(dataset_dir: Path) -> None:
    """Remove the archive that came from a bucket: it would double what the dump takes of the volume."""
    (dataset_dir / ARCHIVE).unlink(missing_ok=True)


def refuse_full_disk(size: int, dataset_dir: Path) -> None:
    """Make sure that `size` bytes more fit into the folder.

    Raises:
        StepError: they do not.
    """
    dataset_dir.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(dataset_dir).free
    if size > free:
        raise StepError(
            f"the dump needs {decimal(size)} more in {dataset_dir}, {decimal(free)} are free: use a larger volume"
        )
