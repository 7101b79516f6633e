"""A bucket or folder, opened by its address.

The scheme of an address chooses the store: `s3://`, `gs://` and `az://` (through obstore, which reads their usual
environment variables), `file://`. docs/operators.md says what of each is tested.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote

from steps.common.errors import StepError, TemporaryError
from steps.common.messages import printable
from steps.common.progress import progress
from steps.storage.address import clean_key, has_scheme
from steps.storage.config import BUCKET_VARIABLE, ONEPANEL_CONFIG_DIR, StorageConfig
from steps.storage.errors import NotThereError
from steps.storage.objects import RemoteObject, Sent
from steps.storage.threads import OBJECTS_IN_FLIGHT, each
from steps.storage.transfer import Done, Download

if TYPE_CHECKING:
    from steps.storage.foreign import Foreign
    from steps.storage.s3 import S3

FILES_IN_FLIGHT = 4
"""Uploads at a time; large ones have parts in flight as well."""


def open_storage(path: str, config: StorageConfig, *, create: bool = False) -> "tuple[Storage, str]":
    """Open the store that holds `path` and give the key in it.

    What a kind of store needs is imported when one is opened: a quarter of a second that others need not wait.

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
        place = Path("/") / unquote(name)
        from steps.storage.foreign import open_folder

        return Storage(open_folder(place, create=create), folder=place), key
    if scheme in ("http", "https"):
        raise StepError(
            f"'{path}' is not an address in object storage: write s3://bucket/key, and the server's own address as "
            "--endpoint"
        )
    if not name:
        raise StepError(f"'{path}' names no bucket: write {scheme}://bucket/key")
    if scheme in ("s3", "s3a"):
        from steps.storage.s3 import open_s3

        return Storage(open_s3(name, config)), key
    from steps.storage.foreign import open_foreign

    return Storage(open_foreign(bucket, config)), key


def _split(address: str) -> tuple[str, str]:
    """Split an address into its bucket, such as `s3://name`, and the key, which may hold '?' and '#'."""
    scheme, _, rest = address.partition("://")
    if scheme == "file":  # A URI, whose path is quoted; which of its folders is the bucket it does not say.
        return "file://", unquote(rest)
    name, _, key = rest.partition("/")
    return f"{scheme}://{name}", key


class Storage:
    """One bucket or folder. Keys are complete, without a leading slash."""

    def __init__(self, bucket: "S3 | Foreign", *, folder: Path | None = None) -> None:
        self._bucket = bucket
        self.folder = folder
        """The folder that a `file://` bucket is."""
        self.url = bucket.url
        """The bucket's address, such as `s3://bucket`."""

    def list(self, prefix: str) -> Sequence[RemoteObject]:
        """List the objects under `prefix`, a whole path segment: `a/b` does not list `a/bc`.

        Folder markers (empty objects whose key ends in a slash) are left out.

        Raises:
            StepError: the store refuses, or an object has a key that no file can have.
        """
        prefix = prefix.rstrip("/")
        found = self._bucket.list(f"{prefix}/" if prefix else "")
        self.refuse_odd_keys([remote.key for remote in found])
        return found

    def refuse_odd_keys(self, keys: Sequence[str]) -> None:
        """Refuse keys that no file can have, or that change on their way through URLs."""
        for key in keys:
            if re.search(r"[\x00-\x1f\x7f]", key) or {"", ".", ".."} & set(key.split("/")):
                raise StepError(f"{self.url} cannot have '{printable(key)}' here, which no file can be: rename it")

    def head(self, key: str) -> RemoteObject | None:
        """Give the object at exactly `key`, or None."""
        try:
            return self._bucket.head(key) if key else None
        except NotThereError:
            return None

    def children(self, prefix: str) -> Sequence[str]:
        """Name what lies directly under `prefix`, folders with a trailing slash."""
        prefix = prefix.rstrip("/")
        folders, keys = self._bucket.children(f"{prefix}/" if prefix else "")
        names = [f"{path.rstrip('/').rpartition('/')[2]}/" for path in folders]
        return sorted(names + [key.rpartition("/")[2] for key in keys if not key.endswith("/")])

    def download(
        self,
        wanted: Sequence[tuple[RemoteObject, Path]],
        scratch: Path,
        done: Done = lambda remote, path, sum_: None,
    ) -> None:
        """Fetch each object to its path, whole or not at all.

        Bytes gather in `scratch` (on the same file system) under temporary names, are compared with whatever
        checksum the store gives, and then the file is renamed. `done` is called after each.

        Raises:
            StepError: the store refuses, or holds an object that is not what its checksum says.
            TemporaryError: an object vanished, changed or arrived damaged, or failures did not end in time.
        """
        if not wanted:
            return
        scratch.mkdir(parents=True, exist_ok=True)
        total = sum(remote.size for remote, _ in wanted)
        with progress(f"fetching {len(wanted)} objects", total) as advance:
            Download(self._bucket, scratch, advance, done).all(wanted)

    def upload(self, files: Sequence[tuple[Path, str]]) -> Sequence[Sent]:
        """Put each file at its key, large ones in parts; give what was sent, in the order of `files`.

        Raises:
            StepError: the store refuses.
            TemporaryError: a file changes while it is sent, or arrived damaged, or failures did not end in time.
        """
        self.refuse_odd_keys([key for _, key in files])
        sent: dict[str, Sent] = {}
        with progress(f"uploading {len(files)} files", sum(path.stat().st_size for path, _ in files)) as advance:

            def put(item: tuple[Path, str]) -> None:
                path, key = item
                try:
                    sent[key] = self._bucket.upload(path, key)
                except FileNotFoundError:
                    raise TemporaryError(f"{path} vanished while it was being uploaded: run the step again") from None
                advance(sent[key].size)

            each(files, min(FILES_IN_FLIGHT, len(files)), put, self._bucket.stop)
        return [sent[key] for _, key in files]

    def read(self, key: str) -> bytes | None:
        """Give a small object's bytes; None where there is none."""
        return self._bucket.read(key)

    def remove(self, keys: Sequence[str]) -> None:
        """Remove objects, which need not be there."""
        if keys:
            each(keys, min(OBJECTS_IN_FLIGHT, len(keys)), self._bucket.delete, self._bucket.stop)
