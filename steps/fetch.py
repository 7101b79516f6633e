"""Fetch the dump that CVAT left in object storage."""

import difflib
import logging
import time
import zipfile
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Annotated

import typer
from rich.filesize import decimal

from steps.common.errors import StepError
from steps.dataset.containment import refuse_ways_out
from steps.dump.journal import Journal
from steps.dump.target import STATE_DIR, empty_scratch, nothing_in_the_way, safe, settle
from steps.dump.unpack import unpack
from steps.options import Bucket, DatasetDir, Endpoint, Namespace, Region
from steps.storage.address import has_scheme
from steps.storage.config import StorageConfig
from steps.storage.store import Storage, open_storage
from steps.storage.transfer import RemoteObject

log = logging.getLogger(__name__)


def fetch_dump(
    annotation_path: Annotated[
        str,
        typer.Option(help="Where the dump is: a key prefix in the bucket, s3://bucket/prefix, a folder or a .zip."),
    ],
    dataset_dir: DatasetDir,
    namespace: Namespace = "",
    bucket: Bucket = "",
    endpoint: Endpoint = "",
    region: Region = "",
) -> Path:
    """Bring a dump, complete and unpacked, into `dataset_dir`; what is already there whole is kept.

    A bare path is a key prefix when a bucket is configured. It is tried as given, then under `namespace`:
    Onepanel's CVAT has passed it both ways. Files of an earlier, other dump are removed.

    Returns:
        `dataset_dir`.

    Raises:
        StepError: nothing is there, the storage refuses, or an archive is broken or unsafe.
    """
    started = time.monotonic()
    dataset_dir = Path(dataset_dir)
    if dataset_dir.exists() and not dataset_dir.is_dir():
        raise StepError(f"--dataset-dir {dataset_dir} is a file: give a folder, which need not exist yet")
    if not annotation_path.strip():
        raise StepError("--annotation-path is empty: give the dump's key prefix, address, folder or .zip")
    config = StorageConfig.resolve(bucket=bucket, endpoint=endpoint, region=region)

    local = _local(annotation_path, config)
    if local is not None and local.is_file():
        with nothing_in_the_way(dataset_dir):
            count, kept, size = unpack(local, dataset_dir)
    else:
        if local is not None:
            if local.resolve() == dataset_dir.resolve():
                log.info("the dump is in %s already", dataset_dir)
                return dataset_dir
            if dataset_dir.resolve().is_relative_to(local.resolve()):
                raise StepError(f"--dataset-dir {dataset_dir} lies inside the dump {local}: give a folder outside it")
            refuse_ways_out(local)
            annotation_path = local.resolve().as_uri()  # Which quotes what a name may hold; a key is as it is.
        storage, prefix, objects = _find(annotation_path, namespace, config)
        archive = _only_archive(objects)
        with nothing_in_the_way(dataset_dir):
            if archive:
                packed = dataset_dir / STATE_DIR / "dump.zip"
                _download(storage, [(archive, packed)], dataset_dir)
                count, kept, size = unpack(packed, dataset_dir)
            else:
                wanted = [(remote, dataset_dir / _relative(remote.key, prefix)) for remote in objects]
                settle([path for _, path in wanted], dataset_dir)
                kept = _download(storage, wanted, dataset_dir)
                count, size = len(wanted), sum(remote.size for remote in objects)
        annotation_path = f"{storage.url}/{prefix}"
    log.info(
        "%s files (%s) of %s in %s: %s fetched in %.1f s, %s were here already",
        count, decimal(size), annotation_path, dataset_dir, count - kept, time.monotonic() - started, kept,
    )  # fmt: skip
    return dataset_dir


def _local(path: str, config: StorageConfig) -> Path | None:
    """Give the folder or zip on this machine that `path` names, None when it means object storage."""
    if has_scheme(path):
        return None
    local = Path(path).expanduser()
    explicit = path.startswith(("/", ".", "~"))
    if config.bucket and not explicit:
        return None
    if local.is_dir() or zipfile.is_zipfile(local):
        return local
    if local.is_file():
        raise StepError(f"{path} is neither a folder nor a zip archive: give the dump as CVAT exported it")
    if path.startswith(("./", "../", "~")) or (explicit and not config.bucket):
        raise StepError(f"there is no {path}: give a dump's folder or .zip")
    return None


def _find(path: str, namespace: str, config: StorageConfig) -> tuple[Storage, str, list[RemoteObject]]:
    """List the dump's objects under the first of the two prefixes that has any."""
    storage, key = open_storage(path, config)
    candidates, namespace = [key], namespace.strip("/ ")
    if namespace and not has_scheme(path) and not f"{key}/".startswith(f"{namespace}/"):
        candidates.append(f"{namespace}/{key}")
    for prefix in candidates:
        single = storage.head(prefix) if prefix.lower().endswith(".zip") else None
        objects = [single] if single else storage.list(prefix)
        if objects:
            return storage, prefix, objects
    tried = " nor under ".join(f"{storage.url}/{prefix}" for prefix in candidates)
    raise StepError(f"nothing lies under {tried}: {_nearest(storage, candidates)}")


def _nearest(storage: Storage, prefixes: Sequence[str]) -> str:
    """Describe the closest existing neighbours of prefixes that hold nothing."""
    deepest, wanted = "", prefixes[0].split("/")[0]
    names: Sequence[str] = ()
    for prefix in prefixes:
        segments = prefix.split("/")
        for depth in range(len(segments) - 1, -1, -1):
            parent = "/".join(segments[:depth])
            found = storage.children(parent)
            if found:
                if not names or depth > len(PurePosixPath(deepest).parts):
                    deepest, wanted, names = parent, segments[depth], found
                break
    if not names:
        return f"{storage.url} is empty; has CVAT dumped into this bucket?"
    close = difflib.get_close_matches(wanted, [name.rstrip("/") for name in names], n=3, cutoff=0.5)
    shown = [name for name in names if name.rstrip("/") in close] or names[:5]
    more = f" and {len(names) - len(shown)} more" if len(names) > len(shown) else ""
    return f"nearest is {'/'.join(filter(None, [storage.url, deepest]))}/ with {', '.join(shown)}{more}"


def _only_archive(objects: Sequence[RemoteObject]) -> RemoteObject | None:
    return objects[0] if len(objects) == 1 and objects[0].key.lower().endswith(".zip") else None


def _relative(key: str, prefix: str) -> PurePosixPath:
    """Give an object's path in the dataset's folder; refuse keys that would leave it."""
    name = key.removeprefix(prefix).lstrip("/") or PurePosixPath(key).name
    return safe(name, f"the object '{key}'")


def _download(storage: Storage, wanted: Sequence[tuple[RemoteObject, Path]], dataset_dir: Path) -> int:
    """Fetch what is missing; give the number of objects that were here already."""
    scratch = empty_scratch(dataset_dir)
    journal = Journal(dataset_dir)
    missing = [(remote, path) for remote, path in wanted if not journal.holds(remote, path)]
    try:
        storage.download(missing, scratch, journal.add)
    finally:
        journal.close()
    return len(wanted) - len(missing)
