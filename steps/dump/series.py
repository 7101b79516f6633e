"""Runs that train on the same, growing dump again and again: what the last one was trained on."""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import orjson

from steps.common.errors import StepError
from steps.common.files import parse_json, write_json
from steps.dump.journal import version_of
from steps.dump.source import BucketArchive, BucketFolder, LocalArchive, LocalFolder, ServerTasks, Source, files_of
from steps.dump.target import STATE_DIR
from steps.storage.store import Storage

LATEST = "latest"
"""Folder of the series in which its best model lies."""
_LAST_RUN = "last_run.json"
_VERSION = f"{STATE_DIR}/version.json"


@dataclass(frozen=True)
class LastRun:
    """The last run of a series."""

    run: str
    dump_version: str
    promoted: bool
    """Whether its model has become the latest."""


def dump_version(source: Source, state: str) -> str:
    """Tell one state of a dump from another without reading it: SHA-256 of its files' names and versions.

    A version is what the store says of an object (size and ETag), a CVAT server of a task, and a local file's size and
    time.

    Args:
        source: where the dump is.
        state: which jobs of a CVAT server count.
    """
    rows: Iterable[tuple[str, object]]
    match source:
        case LocalFolder(path):
            rows = [(str(name), version_of(file)) for name, file in files_of(path).items()]
        case LocalArchive(path):
            rows = [("", version_of(path))]
        case BucketFolder(_, prefix, objects):
            rows = [(remote.key.removeprefix(prefix), remote.version) for remote in objects]
        case BucketArchive(_, remote):
            rows = [("", remote.version)]
        case ServerTasks(places):
            from steps.cvat.export import parts  # Deferred, as in `fetch`.
            from steps.cvat.server import Server

            with Server(places[0].host) as server:
                rows = [(part.folder, part.version) for part in parts(server, places, state)]
    return hashlib.sha256(orjson.dumps(sorted(rows, key=lambda row: row[0]))).hexdigest()


def note_version(version: str, dataset_dir: Path) -> None:
    """Write down which state of the dump lies in a folder."""
    write_json(dataset_dir / _VERSION, version)


def version_in(dataset_dir: Path) -> str:
    """Give what `note_version` wrote; empty where nothing did."""
    try:
        return str(parse_json((dataset_dir / _VERSION).read_bytes()))
    except (OSError, ValueError):
        return ""


def read_last_run(storage: Storage, series: str, scratch: Path) -> LastRun | None:
    """Read what the last run of a series left; None before the first.

    Raises:
        StepError: what lies there is not that, or the store refuses.
    """
    remote = storage.head(f"{series}/{_LAST_RUN}")
    if remote is None:
        return None
    scratch.mkdir(parents=True, exist_ok=True)
    storage.download([(remote, scratch / _LAST_RUN)], scratch / "unfinished")
    try:
        return LastRun(**json.loads((scratch / _LAST_RUN).read_bytes()))
    except (ValueError, TypeError):
        raise StepError(
            f"{storage.url}/{series}/{_LAST_RUN} is not what a run leaves there: remove it, and the next run trains"
        ) from None


def write_last_run(last: LastRun, storage: Storage, series: str, scratch: Path) -> None:
    """Leave for the next run of a series what this one was."""
    write_json(scratch / _LAST_RUN, asdict(last))
    storage.upload([(scratch / _LAST_RUN, f"{series}/{_LAST_RUN}")])
