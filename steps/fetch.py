"""Fetch the dump that CVAT left in object storage."""

import difflib
import logging
import shutil
import time
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, Annotated

import orjson
import typer
from rich.filesize import decimal

from steps.common.errors import StepError
from steps.common.files import read_json, replacing, write_json
from steps.dataset.containment import refuse_ways_out
from steps.dataset.findings import printable
from steps.dataset.layout import MOVED_ASIDE
from steps.dump.archive import members, refuse_same_names, safe_path
from steps.options import Bucket, DatasetDir, Endpoint, Namespace, Region
from steps.storage.address import has_scheme
from steps.storage.config import StorageConfig
from steps.storage.store import Storage, open_storage
from steps.storage.transfer import RemoteObject

log = logging.getLogger(__name__)

STATE_DIR = ".fetch"
"""Folder in the dataset's that holds unfinished files, archives, and the journal of what was fetched."""


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
        with _nothing_in_the_way(dataset_dir):
            count, kept, size = _unpack(local, dataset_dir)
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
        with _nothing_in_the_way(dataset_dir):
            if archive:
                packed = dataset_dir / STATE_DIR / "dump.zip"
                _download(storage, [(archive, packed)], dataset_dir)
                count, kept, size = _unpack(packed, dataset_dir)
            else:
                wanted = [(remote, dataset_dir / _relative(remote.key, prefix)) for remote in objects]
                _settle([path for _, path in wanted], dataset_dir)
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


@contextmanager
def _nothing_in_the_way(dataset_dir: Path) -> Iterator[None]:
    try:
        yield
    except (FileExistsError, IsADirectoryError, NotADirectoryError) as error:
        path = error.filename2 or error.filename
        raise StepError(f"{path} is in the way of the dump's files: empty {dataset_dir}") from None


def _only_archive(objects: Sequence[RemoteObject]) -> RemoteObject | None:
    return objects[0] if len(objects) == 1 and objects[0].key.lower().endswith(".zip") else None


def _relative(key: str, prefix: str) -> PurePosixPath:
    """Give an object's path in the dataset's folder; refuse keys that would leave it."""
    name = key.removeprefix(prefix).lstrip("/") or PurePosixPath(key).name
    return _safe(name, f"the object '{key}'")


def _safe(name: str, what: str) -> PurePosixPath:
    path = safe_path(name, what)
    _refuse_ours(path, what)
    return path


def _refuse_ours(path: PurePosixPath, what: str) -> None:
    if path.parts[0] == STATE_DIR:
        raise StepError(f"{what} lies in '{STATE_DIR}', which is the fetch step's own folder: rename it in the dump")


def _settle(paths: Sequence[Path], dataset_dir: Path) -> None:
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


class _Journal:
    """What was fetched into a folder: a line of JSON an object, written as each one arrives.

    The line holds the file's size and time of change, so that a file altered since is fetched again, and the
    entity tag, so that an object altered since is.
    """

    def __init__(self, dataset_dir: Path) -> None:
        self._root = dataset_dir
        self._path = dataset_dir / STATE_DIR / "journal.jsonl"
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self.entries: dict[str, list[object]] = {}
        if self._path.is_file():
            for line in self._path.read_bytes().splitlines():
                try:
                    match orjson.loads(line):
                        case [str(name), *entry]:
                            self.entries[name] = entry
                except orjson.JSONDecodeError:
                    continue  # The line that a killed run was writing.
        self._file: IO[bytes] | None = None

    def holds(self, remote: RemoteObject, path: Path) -> bool:
        entry = self.entries.get(self._name(path))
        return entry is not None and path.is_file() and entry == self._entry(remote, path)

    def add(self, remote: RemoteObject, path: Path) -> None:
        if self._file is None:
            self._file = self._path.open("ab")
            self._file.write(b"\n")  # Ends the line that a killed run left open.
        name, entry = self._name(path), self._entry(remote, path)
        self.entries[name] = entry
        self._file.write(orjson.dumps([name, *entry], option=orjson.OPT_APPEND_NEWLINE))

    def close(self) -> None:
        """Write the journal anew, without the files that are gone."""
        if self._file is not None:
            self._file.close()
        self.entries = {name: entry for name, entry in self.entries.items() if (self._root / name).is_file()}
        with replacing(self._path) as temporary:
            lines = [orjson.dumps([name, *entry]) for name, entry in sorted(self.entries.items())]
            temporary.write_bytes(b"\n".join([*lines, b""]))

    def _name(self, path: Path) -> str:
        return path.relative_to(self._root).as_posix()

    @staticmethod
    def _entry(remote: RemoteObject, path: Path) -> list[object]:
        status = path.stat()
        return [remote.size, remote.etag, status.st_size, status.st_mtime_ns]


def _download(storage: Storage, wanted: Sequence[tuple[RemoteObject, Path]], dataset_dir: Path) -> int:
    """Fetch what is missing; give the number of objects that were here already."""
    scratch = _empty_scratch(dataset_dir)
    journal = _Journal(dataset_dir)
    missing = [(remote, path) for remote, path in wanted if not journal.holds(remote, path)]
    try:
        storage.download(missing, scratch, journal.add)
    finally:
        journal.close()
    return len(wanted) - len(missing)


def _empty_scratch(dataset_dir: Path) -> Path:
    """Give the folder of unfinished files, without those of a run that was killed."""
    scratch = dataset_dir / STATE_DIR / "unfinished"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    return scratch


def _unpack(archive: Path, dataset_dir: Path) -> tuple[int, int, int]:
    """Unpack a zip; give how many files it holds, how many were here already, and their bytes."""
    kept = 0
    try:
        with zipfile.ZipFile(archive) as zipped:
            found = members(archive, zipped)
            for _, path in found:
                _refuse_ours(path, f"'{printable(str(path))}' in {archive}")
            _refuse_full_disk(archive, sum(member.file_size for member, _ in found), dataset_dir)
            targets = [dataset_dir / path for _, path in found]
            _settle(targets, dataset_dir)
            refuse_same_names([path for _, path in found], str(archive), dataset_dir / STATE_DIR)
            # Where a killed run's leavings are not taken for a part of the dump.
            unfinished = _empty_scratch(dataset_dir) / "member"
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
