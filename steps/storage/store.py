"""A bucket or folder, opened by its address.

boto3 settles endpoint, region and credentials, and puts a refusal into words; obstore moves the bytes, with
many small objects in flight at once and large ones in parts. The scheme of an address chooses the store:
`s3://` (tested here), `gs://` and `az://` (configured through the environment variables that obstore names),
`file://`.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import obstore
from obstore.exceptions import BaseError
from obstore.store import LocalStore, from_url

from steps.common.errors import StepError
from steps.common.progress import progress
from steps.storage.address import clean_key, has_scheme
from steps.storage.config import BUCKET_VARIABLE, ONEPANEL_CONFIG_DIR, StorageConfig
from steps.storage.errors import in_words, one_line
from steps.storage.s3 import open_s3
from steps.storage.transfer import OBJECTS_IN_FLIGHT, PARTS_IN_FLIGHT, Download, RemoteObject, each, upload


def open_storage(path: str, config: StorageConfig, *, create: bool = False) -> "tuple[Storage, str]":
    """Open the store that holds `path` and give the key in it.

    Args:
        path: an address with a scheme, or a key in the configured bucket.
        config: the bucket and who we are there.
        create: make the folder of a `file://` bucket that does not exist.

    Raises:
        StepError: no bucket is configured, the scheme is unknown, or the store refuses us.
    """
    if has_scheme(path):
        bucket, key = _split(path)
    else:
        if not config.bucket:
            raise StepError(
                f"'{path}' is a key in a bucket, and no bucket is configured: give --bucket, "
                f"mount {ONEPANEL_CONFIG_DIR}/artifactRepository, set {BUCKET_VARIABLE}, or write s3://bucket/key"
            )
        bucket = config.bucket if has_scheme(config.bucket) else f"s3://{config.bucket}"
        key = path
        if not bucket.startswith("file:"):
            bucket, folder = _split(bucket)
            key = f"{folder}/{path}"
    key = clean_key(key, path)
    scheme, name = bucket.split("://", 1)
    if scheme == "file":
        return _open_folder(Path("/") / unquote(name), create=create), key
    if scheme in ("http", "https"):
        raise StepError(
            f"'{path}' is not an address in object storage: write s3://bucket/key, and the server's own address as "
            "--endpoint"
        )
    if not name:
        raise StepError(f"'{path}' names no bucket: write {scheme}://bucket/key")
    if scheme in ("s3", "s3a"):
        store, endpoint = open_s3(name, config)
        return Storage(store, f"s3://{name}", where=f" at {endpoint}"), key
    try:
        return Storage(from_url(bucket), bucket), key
    except (BaseError, ValueError) as error:
        raise StepError(f"cannot open {bucket}: {one_line(error)}") from None


def _split(address: str) -> tuple[str, str]:
    """Split an address into its bucket, such as `s3://name`, and the key, which may hold '?' and '#'."""
    scheme, _, rest = address.partition("://")
    if scheme == "file":  # A URI, whose path is quoted; which of its folders is the bucket it does not say.
        return "file://", unquote(rest)
    name, _, key = rest.partition("/")
    return f"{scheme}://{name}", key


def _open_folder(folder: Path, *, create: bool) -> "Storage":
    if not create and not folder.is_dir():
        raise StepError(f"the bucket is the folder {folder}, which does not exist: check its name")
    try:
        store = LocalStore(folder, mkdir=create)
    except BaseError as error:
        raise StepError(f"cannot open the folder {folder}: {one_line(error)}") from None
    return Storage(store, f"file://{folder}".rstrip("/"), folder=folder)


class Storage:
    """One bucket or folder, through obstore. Keys are complete, without a leading slash."""

    def __init__(self, store: Any, url: str, *, where: str = "", folder: Path | None = None) -> None:
        self._store = store
        self.folder = folder
        """The folder that a `file://` bucket is."""
        self.url = url
        """The bucket's address, such as `s3://bucket`."""
        self._address = f"{url}{where}"

    def list(self, prefix: str) -> list[RemoteObject]:
        """List the objects under `prefix`, a whole path segment: `a/b` does not list `a/bc`.

        Folder markers (empty objects whose key ends in a slash) are left out.
        """
        with in_words(self._address):
            chunks = obstore.list(self._store, prefix.rstrip("/") or None, chunk_size=1000)
            found = [_remote(meta) for chunk in chunks for meta in chunk]
        # obstore gives a marker's key without the slash: only asking tells it from an empty file.
        empty = [remote for remote in found if not remote.size and self.folder is None]
        markers: set[str] = set()

        def ask(remote: RemoteObject) -> None:
            if self.head(remote.key) is None:
                markers.add(remote.key)

        each(empty, OBJECTS_IN_FLIGHT, ask)
        return [remote for remote in found if remote.key not in markers]

    def head(self, key: str) -> RemoteObject | None:
        """Give the object at exactly `key`, or None."""
        if not key:
            return None
        with in_words(self._address):
            try:
                return _remote(obstore.head(self._store, key))
            except FileNotFoundError:
                return None

    def children(self, prefix: str) -> Sequence[str]:
        """Name what lies directly under `prefix`, folders with a trailing slash."""
        with in_words(self._address):
            found = obstore.list_with_delimiter(self._store, prefix.rstrip("/") or None)
        folders = [f"{path.rstrip('/').rpartition('/')[2]}/" for path in found["common_prefixes"]]
        files = [meta["path"] for meta in found["objects"] if meta["path"] != prefix.rstrip("/")]
        return sorted(folders + [path.rpartition("/")[2] for path in files])

    def download(
        self,
        wanted: Sequence[tuple[RemoteObject, Path]],
        scratch: Path,
        done: Callable[[RemoteObject, Path], None] = lambda remote, path: None,
    ) -> None:
        """Fetch each object to its path, whole or not at all.

        Bytes gather in `scratch` (on the same file system) under temporary names; length and, where the
        entity tag is one, the MD5 sum are checked, then the file is renamed. `done` is called after each.

        Raises:
            StepError: an object vanished, changed or arrived damaged, or the store refused.
        """
        if not wanted:
            return
        scratch.mkdir(parents=True, exist_ok=True)
        total = sum(remote.size for remote, _ in wanted)
        with progress(f"fetching {len(wanted)} objects", total) as advance, in_words(self._address):
            Download(self._store, self.url, scratch, advance, done).all(wanted)

    def upload(self, files: Sequence[tuple[Path, str]]) -> None:
        """Put each file at its key, large ones in parts, and check that the sizes arrived.

        Raises:
            StepError: the store refused, or holds another size than was sent.
        """
        total = sum(path.stat().st_size for path, _ in files)
        with progress(f"uploading {len(files)} files", total) as advance, in_words(self._address):
            each(files, PARTS_IN_FLIGHT, lambda item: advance(upload(self._store, self.url, *item)))


def _remote(meta: Any) -> RemoteObject:
    return RemoteObject(key=meta["path"], size=meta["size"], etag=(meta.get("e_tag") or "").strip('"'))
