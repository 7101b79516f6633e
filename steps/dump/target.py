"""The folder that a dump is brought into: what may lie in it, what is unfinished, and what was there before."""

import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from steps.common.errors import StepError
from steps.common.files import read_json, write_json
from steps.dataset.layout import MOVED_ASIDE
from steps.dump.archive import safe_path

STATE_DIR = ".fetch"
"""Folder in the dataset's that holds unfinished files, archives, and the journal of what was fetched."""


@contextmanager
def nothing_in_the_way(dataset_dir: Path) -> Iterator[None]:
    try:
        yield
    except (FileExistsError, IsADirectoryError, NotADirectoryError) as error:
        path = error.filename2 or error.filename
        raise StepError(f"{path} is in the way of the dump's files: empty {dataset_dir}") from None


def safe(name: str, what: str) -> PurePosixPath:
    path = safe_path(name, what)
    refuse_ours(path, what)
    return path


def refuse_ours(path: PurePosixPath, what: str) -> None:
    if path.parts[0] == STATE_DIR:
        raise StepError(f"{what} lies in '{STATE_DIR}', which is the fetch step's own folder: rename it in the dump")


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
    listing = dataset_dir / STATE_DIR / "files.json"
    listed = sorted(path.relative_to(dataset_dir).as_posix() for path in paths)
    for name in read_json(listing, "the fetch step") if listing.is_file() else []:
        if dataset_dir / name not in files:
            (dataset_dir / name).unlink(missing_ok=True)
            if name in MOVED_ASIDE and MOVED_ASIDE[name] not in listed:
                (dataset_dir / MOVED_ASIDE[name]).unlink(missing_ok=True)
    # Written before the first file arrives: whatever a killed run leaves behind is listed.
    write_json(listing, listed, indent=False)


def empty_scratch(dataset_dir: Path) -> Path:
    """Give the folder of unfinished files, without those of a run that was killed."""
    scratch = dataset_dir / STATE_DIR / "unfinished"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    return scratch
