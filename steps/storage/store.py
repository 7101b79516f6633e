"""A bucket or folder, opened by its address.

boto3 settles endpoint, region and credentials, and puts a refusal into words; obstore moves the bytes, with
many small objects in flight at once and large ones in parts. The scheme of an address chooses the store:
`s3://` (tested here), `gs://` and `az://` (configured through the environment variables that obstore names),
`file://`.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import obstore
from obstore.exceptions import BaseError
from obstore.store import LocalStore, from_url

from steps.common.errors import StepError
from steps.common.progress import progress
from steps.storage.address import clean_key, has_scheme
from steps.storage.config import BUCKET_VARIABLE, ONEPANEL_CONFIG_DIR, StorageConfig
from steps.storage.errors import in_words, one_line
from steps.storage.s3 import open_s3
from steps.storage.transfer import PARTS_IN_FLIGHT, Download, RemoteObject, each, upload


def open_storage(path: str, config: StorageConfig) -> "tuple[Storage, str]":
    """Open the store that holds `path` and give the key in it.

    `path` is an address with a scheme, or a key in the configured bucket.

    Raises:
        StepError: no bucket is configured, the scheme is unknown, or the store refuses us.
    """
    if not has_scheme(path):
        if not config.bucket:
            raise StepError(
                f"'{path}' is a key in a bucket, and no bucket is configured: give --bucket, "
                f"mount {ONEPANEL_CONFIG_DIR}/artifactRepository, set {BUCKET_VARIABLE}, or write s3://bucket/key"
            )
        base = config.bucket if has_scheme(config.bucket) else f"s3://{config.bucket}"
        path = f"{base.rstrip('/')}/{path.lstrip('/')}"
    parts = urlsplit(path, allow_fragments=False)
    # A key may hold '?' and '#': everything after the bucket's name is the key.
    key = clean_key(path.partition("://")[2].partition("/")[2], path)
    if parts.scheme == "file":
        folder = Path("/") / unquote(key)
        if not folder.parent.is_dir():
            raise StepError(f"there is no folder {folder.parent}: check '{path}'")
        return Storage(LocalStore(folder.parent), f"file://{folder.parent}"), folder.name
    if parts.scheme in ("http", "https"):
        raise StepError(
            f"'{path}' is no address in object storage: write s3://bucket/key, and the server's own address as "
            "--endpoint"
        )
    if not parts.netloc:
        raise StepError(f"'{path}' names no bucket: write {parts.scheme}://bucket/key")
    if parts.scheme in ("s3", "s3a"):
        store, endpoint = open_s3(parts.netloc, config)
        return Storage(store, f"s3://{parts.netloc}", where=f" at {endpoint}"), key
    address = f"{parts.scheme}://{parts.netloc}"
    try:
        return Storage(from_url(address), address), key
    except (BaseError, ValueError) as error:
        raise StepError(f"cannot open {address}: {one_line(error)}") from None


class Storage:
    """One bucket or folder, through obstore. Keys are complete, without a leading slash."""

    def __init__(self, store: Any, url: str, *, where: str = "") -> None:
        self._store = store
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
        return [remote for remote in found if remote.size or self.head(remote.key)]

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
