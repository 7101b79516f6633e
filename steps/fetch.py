"""Fetch a dump from object storage, a folder, a zip archive or a CVAT server."""

import logging
import os
import shutil
import time
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Annotated

import typer
from rich.filesize import decimal

from steps.common.errors import StepError, TemporaryError
from steps.common.lock import only_writer
from steps.common.progress import progress
from steps.cvat.address import STATES
from steps.cvat.links import IDS
from steps.dump.journal import Fetched, Journal, version_of
from steps.dump.series import dump_version, note_version, read_last_run
from steps.dump.source import (
    BucketArchive,
    BucketFolder,
    LocalArchive,
    LocalFolder,
    ServerTasks,
    Source,
    files_of,
    locate,
)
from steps.dump.target import (
    ARCHIVE,
    LOCK,
    STATE_DIR,
    empty_scratch,
    note_source,
    nothing_in_the_way,
    refuse_full_disk,
    remove_archive,
    safe_target,
    settle,
)
from steps.dump.unpack import unpack, unpacked
from steps.options import (
    BatchSize,
    Bucket,
    Checkpoint,
    DatasetDir,
    Endpoint,
    Epochs,
    Hyperparameters,
    Model,
    Namespace,
    Region,
    Series,
    choice,
)
from steps.remember import note_place, place_of, remembered
from steps.settings import check_settings
from steps.storage.config import StorageConfig
from steps.storage.objects import RemoteObject
from steps.storage.store import Storage, open_storage
from trainer.models.choice import AUTO

log = logging.getLogger(__name__)


def fetch_dump(
    annotation_path: Annotated[
        str,
        typer.Option(
            help="Where the dump is: a key prefix in the bucket, s3://bucket/prefix, a folder or a .zip; "
            "or tasks, projects or jobs of a CVAT server, as in https://cvat.example.com/tasks/42."
        ),
    ],
    dataset_dir: DatasetDir,
    series: Series = "",
    changed_file: Annotated[
        str,
        typer.Option(
            help="With --series: file that says 'false' where the last run of the series was trained on this very"
            " dump, which is then not fetched, else 'true'. Empty: no."
        ),
    ] = "",
    memory: Annotated[
        str,
        typer.Option(
            help="Where `remember` keeps prepared data: a key prefix in the bucket, or s3://bucket/prefix. What was"
            " prepared from this very dump, with --memory-settings, by this code, is fetched in place of the dump."
            " Empty: no."
        ),
    ] = "",
    memory_settings: Annotated[
        str, typer.Option(help="With --memory: the settings of the preparation, in any words.")
    ] = "",
    remembered_file: Annotated[
        str,
        typer.Option(
            help="With --memory: file that says 'true' where prepared data were fetched, else 'false'. Empty: no."
        ),
    ] = "",
    namespace: Namespace = "",
    bucket: Bucket = "",
    endpoint: Endpoint = "",
    region: Region = "",
    state: Annotated[
        str,
        choice(STATES, help="Of a CVAT server, take jobs that are completed, or accepted, or in any state."),
    ] = "any",
    model: Model = AUTO,
    epochs: Epochs = None,
    batch_size: BatchSize = None,
    hyperparameters: Hyperparameters = "",
    checkpoint: Checkpoint = "",
) -> Path:
    """Bring a dump, complete and unpacked, into `dataset_dir`; files that are already there are kept.

    A bare path is a key prefix when a bucket is configured. It is tried as given, then under `namespace`:
    Onepanel's CVAT has passed it both ways. Files of an earlier, other dump are removed.

    The settings of the training are not used here, only checked: what it would refuse costs no download and no GPU.

    Returns:
        `dataset_dir`.

    Raises:
        StepError: a setting is wrong, nothing is there, the storage refuses, or an archive is broken or unsafe.
    """
    started = time.monotonic()
    check_settings(model, epochs, batch_size, hyperparameters, checkpoint)
    dataset_dir = Path(dataset_dir)
    if dataset_dir.exists() and not dataset_dir.is_dir():
        raise StepError(f"--dataset-dir {dataset_dir} is a file: give a folder, which need not exist yet")
    if not annotation_path.strip():
        raise StepError("--annotation-path is empty: give the dump's key prefix, address, folder or .zip")
    if state not in STATES:
        raise StepError(f"--state is '{state}': give one of {', '.join(STATES)}")
    config = StorageConfig.resolve(bucket=bucket, endpoint=endpoint, region=region)

    source = locate(annotation_path, namespace, config)
    if isinstance(source, LocalFolder) and _real(source.path) == _real(dataset_dir):
        log.info("the dump is already in %s", dataset_dir)
        return dataset_dir
    if series:
        version = dump_version(source, state)
        changed = _changed(source, version, series, config, dataset_dir)
        if changed_file:
            Path(changed_file).write_text("true" if changed else "false", encoding="utf-8")
        if not changed:
            return dataset_dir
    wanted = source
    if memory:
        place = place_of(memory, source, state, memory_settings, dataset_dir)
        prepared = remembered(place, config)
        if prepared:
            log.info("%s was prepared before, with these settings: %s has the data", source, prepared)
            wanted = prepared
        if remembered_file:
            Path(remembered_file).write_text("true" if prepared else "false", encoding="utf-8")
    with only_writer(dataset_dir, "fetch", LOCK), nothing_in_the_way(dataset_dir):
        fetched = _bring(wanted, dataset_dir, state)
        note_source(str(source), dataset_dir)
        if memory:
            note_place(place, dataset_dir)
        if series:
            note_version(version, dataset_dir)
    log.info(
        "%s files (%s) of %s in %s: %s fetched in %.1f s, %s already there",
        fetched.files, decimal(fetched.size), wanted, dataset_dir, fetched.files - fetched.kept,
        time.monotonic() - started, fetched.kept,
    )  # fmt: skip
    return dataset_dir


def _real(path: Path) -> Path:
    """Give a path without links; of links in a circle, as far as they lead, where pathlib raises."""
    return Path(os.path.realpath(path))


def _changed(source: Source, version: str, series: str, config: StorageConfig, dataset_dir: Path) -> bool:
    """Tell whether the dump is another one than that of the last run in a series."""
    storage, prefix = open_storage(series, config)
    last = read_last_run(storage, prefix, dataset_dir / STATE_DIR / "series")
    if last is not None and last.dump_version == version:
        log.info("nothing to do: %s has not changed since the run %s", source, last.run or "before")
        return False
    return True


def _bring(source: Source, dataset_dir: Path, state: str) -> Fetched:
    """Bring a dump by the way that its kind asks for."""
    if not isinstance(source, ServerTasks):
        (dataset_dir / IDS).unlink(missing_ok=True)
    match source:
        case ServerTasks(places):
            from steps.dump.server_tasks import bring_tasks  # Deferred: its HTTP is for these alone.

            return bring_tasks(places, state, dataset_dir)
        case LocalFolder(path):
            return _copy(path, dataset_dir)
        case LocalArchive(path):
            return unpacked(version_of(path), dataset_dir) or unpack(path, str(path), version_of(path), dataset_dir)
        case BucketFolder(storage, prefix, objects):
            wanted = [(remote, dataset_dir / _name(remote.key, prefix)) for remote in objects]
            settle([path for _, path in wanted], dataset_dir)
            remove_archive(dataset_dir)
            kept = _download(storage, wanted, dataset_dir)
            return Fetched(len(wanted), kept, sum(remote.size for remote in objects))
        case BucketArchive(storage, remote):
            if fetched := unpacked(remote.version, dataset_dir):
                return fetched
            archive = dataset_dir / ARCHIVE
            _download(storage, [(remote, archive)], dataset_dir)
            return unpack(archive, str(source), remote.version, dataset_dir)


def _name(key: str, prefix: str) -> PurePosixPath:
    """Give an object's path in the dataset's folder; refuse keys that would leave it."""
    name = key.removeprefix(prefix).lstrip("/") or PurePosixPath(key).name
    return safe_target(name, f"the object '{key}'")


def _download(storage: Storage, wanted: Sequence[tuple[RemoteObject, Path]], dataset_dir: Path) -> int:
    """Fetch what is missing; give the number of objects that were there already."""
    scratch = empty_scratch(dataset_dir)
    with Journal(dataset_dir) as journal:
        missing = [(remote, path) for remote, path in wanted if not journal.holds(path, remote.version)]
        refuse_full_disk(sum(remote.size for remote, _ in missing), dataset_dir)
        storage.download(missing, scratch, lambda remote, path, sum_: journal.add(path, remote.version, sum_))
    return len(wanted) - len(missing)


def _copy(folder: Path, dataset_dir: Path) -> Fetched:
    """Copy a folder on this machine, without what an earlier fetch noted in it."""
    if _real(dataset_dir).is_relative_to(_real(folder)):
        raise StepError(f"--dataset-dir {dataset_dir} lies inside the dump {folder}: give a folder outside it")
    files = files_of(folder)
    wanted = [(path, dataset_dir / safe_target(str(name), f"'{name}' in {folder}")) for name, path in files.items()]
    settle([target for _, target in wanted], dataset_dir)
    remove_archive(dataset_dir)
    unfinished = empty_scratch(dataset_dir) / "file"
    with Journal(dataset_dir) as journal:
        missing = [(path, target) for path, target in wanted if not journal.holds(target, version_of(path))]
        size = sum(path.stat().st_size for path, _ in missing)
        refuse_full_disk(size, dataset_dir)
        with progress(f"copying {len(missing)} files", size) as advance:
            for path, target in missing:
                version = version_of(path)
                shutil.copyfile(path, unfinished)
                if version_of(path) != version:
                    raise TemporaryError(f"{path} changed while it was copied: run the step again")
                target.parent.mkdir(parents=True, exist_ok=True)
                unfinished.replace(target)
                journal.add(target, version)
                advance(version[0])
    return Fetched(len(wanted), len(wanted) - len(missing), sum(path.stat().st_size for path in files.values()))
