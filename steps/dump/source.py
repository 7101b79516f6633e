"""Where a dump is, found out before anything is brought: on this machine or in object storage, loose or zipped."""

import difflib
import os
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from steps.common.errors import StepError
from steps.cvat.address import EXAMPLE, Place, parse
from steps.dataset.containment import refuse_ways_out
from steps.dataset.layout import LOST_AND_FOUND
from steps.dump.target import STATE_DIR
from steps.storage.address import candidate_keys, has_scheme
from steps.storage.config import StorageConfig
from steps.storage.objects import RemoteObject
from steps.storage.store import Storage, open_storage


@dataclass(frozen=True)
class LocalFolder:
    """A dump that somebody unpacked on this machine."""

    path: Path

    def __str__(self) -> str:
        return str(self.path)


@dataclass(frozen=True)
class LocalArchive:
    """A zip on this machine."""

    path: Path

    def __str__(self) -> str:
        return str(self.path)


@dataclass(frozen=True)
class BucketFolder:
    """A dump that lies file by file under a key prefix."""

    storage: Storage
    prefix: str
    objects: Sequence[RemoteObject]

    def __str__(self) -> str:
        return f"{self.storage.url}/{self.prefix}"


@dataclass(frozen=True)
class BucketArchive:
    """A single zip in a bucket."""

    storage: Storage
    object: RemoteObject

    def __str__(self) -> str:
        return f"{self.storage.url}/{self.object.key}"


@dataclass(frozen=True)
class ServerTasks:
    """Tasks, projects or jobs of a CVAT server."""

    places: Sequence[Place]

    def __str__(self) -> str:
        return ", ".join(map(str, self.places))


Source = LocalFolder | LocalArchive | BucketFolder | BucketArchive | ServerTasks


def locate(path: str, namespace: str, config: StorageConfig) -> Source:
    """Find out what `path` names.

    An explicit path (`/…`, `./…`, `~/…`) that exists is local; a bare one is a key when a bucket is configured,
    else local. A key is tried as given, then under `namespace`. What lies in a `file://` bucket is local. Of the
    addresses with `http(s)://` those of CVAT's tasks, projects and jobs are taken.

    Raises:
        StepError: nothing is there, or the storage refuses.
    """
    if places := parse(path):
        return ServerTasks(places)
    if path.startswith(("http://", "https://")):
        raise StepError(
            f"'{path}' is neither a task of a CVAT server nor an address in object storage: write {EXAMPLE}, or "
            "s3://bucket/key with the storage server's own address as --endpoint"
        )
    if local := _local_path(path, config):
        return _local_source(local)
    storage, key = open_storage(path, config)
    candidates = candidate_keys(path, key, namespace)
    for prefix in candidates:
        single = storage.head(prefix) if prefix.lower().endswith(".zip") else None
        objects = [single] if single else storage.list(prefix)
        if objects:
            break
    else:
        tried = " nor under ".join(f"{storage.url}/{prefix}" for prefix in candidates)
        raise StepError(f"nothing lies under {tried}: {_nearest(storage, candidates)}")
    archive = objects[0] if len(objects) == 1 and objects[0].key.lower().endswith(".zip") else None
    if storage.folder is not None:
        return _local_source(storage.folder / (archive.key if archive else prefix))
    return BucketArchive(storage, archive) if archive else BucketFolder(storage, prefix, objects)


def _local_path(path: str, config: StorageConfig) -> Path | None:
    """Give the folder or file on this machine that `path` names, None when it means object storage."""
    if has_scheme(path):
        return None
    local = Path(os.path.expanduser(path))
    explicit = path.startswith(("/", ".", "~"))
    if config.bucket and not explicit:
        return None
    if local.exists():
        return local
    if path.startswith(("./", "../", "~")) or (explicit and not config.bucket):
        raise StepError(f"{path} does not exist: give a dump's folder or .zip")
    return None


def _local_source(path: Path) -> LocalFolder | LocalArchive:
    if path.is_dir():
        return LocalFolder(path)
    # A pipe would be waited for, a device read without end.
    if path.is_file() and zipfile.is_zipfile(path):
        return LocalArchive(path)
    raise StepError(f"{path} is neither a folder nor a zip archive: give the dump as CVAT exported it")


def files_of(folder: Path) -> dict[PurePosixPath, Path]:
    """Give the files of a dump in a folder, by their names in it; those behind links to folders too.

    What an earlier fetch noted there is left out.

    Raises:
        StepError: there are none, or a link leads out of the folder or around in it.
    """
    refuse_ways_out(folder)
    names: list[PurePosixPath] = []
    for parent, folders, files in os.walk(folder, followlinks=True):
        for name in folders:
            path = Path(parent, name)
            if path.is_symlink() and path.parent.resolve().is_relative_to(path.resolve()):
                raise StepError(f"{path} is a link to a folder that contains it: remove it")
        names += [PurePosixPath(os.path.relpath(os.path.join(parent, name), folder)) for name in files]
    found = {name: folder / name for name in sorted(names) if name.parts[0] not in (STATE_DIR, LOST_AND_FOUND)}
    if not found:
        raise StepError(f"{folder} holds no files: give the folder of a dump")
    return found


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
