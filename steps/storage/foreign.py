"""Buckets that are not on S3: folders, and what obstore knows (`gs://`, `az://`). They give no checksums to compare."""

import hashlib
import mimetypes
import threading
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import obstore
from obstore.exceptions import BaseError
from obstore.store import LocalStore, from_url

from steps.common.errors import StepError, TemporaryError
from steps.storage.checksums import Sums
from steps.storage.config import StorageConfig
from steps.storage.errors import ChangedError, NotThereError, in_words, one_line
from steps.storage.objects import RemoteObject, Sent
from steps.storage.threads import PART_BYTES, PARTS_IN_FLIGHT
from trainer.data.fingerprint import file_digest


def open_folder(folder: Path, *, create: bool) -> "Foreign":
    """Open a folder as a bucket; `create` makes it.

    Raises:
        StepError: it does not exist, or cannot be made.
    """
    if not create and not folder.is_dir():
        raise StepError(f"the bucket is the folder {folder}, which does not exist: check its name")
    try:
        store = LocalStore(folder, mkdir=create)
    except BaseError as error:
        raise StepError(f"cannot open the folder {folder}: {one_line(error)}") from None
    return Foreign(store, f"file://{folder}".rstrip("/"))


def open_foreign(bucket: str, config: StorageConfig) -> "Foreign":
    """Open a bucket by its address.

    Raises:
        StepError: obstore does not know the scheme, or lacks what it needs.
    """
    try:
        store = from_url(
            bucket,
            # No byte for so long ends a request; a total time would end slow ones that live.
            client_options={
                "timeout": timedelta(days=365),
                "read_timeout": timedelta(seconds=config.stall_seconds),
                # An endpoint without TLS, such as an emulator's, is one that the user named.
                "allow_http": True,
            },
            retry_config={"max_retries": 1000, "retry_timeout": timedelta(seconds=config.retry_seconds)},
        )
    except (BaseError, ValueError) as error:
        raise StepError(f"cannot open {bucket}: {one_line(error)}") from None
    return Foreign(store, bucket)


class Foreign:
    """One bucket, through obstore, with the methods of `S3`."""

    gives_many = False

    def __init__(self, store: Any, url: str) -> None:
        self.store = store
        self.url = url
        self.where = url
        self.stop = threading.Event()

    def list(self, prefix: str) -> Sequence[RemoteObject]:
        with in_words(self.url):
            chunks = obstore.list(self.store, prefix.rstrip("/") or None, chunk_size=1000)
            return [_remote(meta) for chunk in chunks for meta in chunk]

    def children(self, prefix: str) -> tuple[Sequence[str], Sequence[str]]:
        with in_words(self.url):
            found = obstore.list_with_delimiter(self.store, prefix.rstrip("/") or None)
        folders = [f"{path.rstrip('/')}/" for path in found["common_prefixes"]]
        return folders, [meta["path"] for meta in found["objects"]]

    def head(self, key: str) -> RemoteObject:
        with in_words(self.url):
            return _remote(obstore.head(self.store, key))

    def get(
        self, remote: RemoteObject, start: int, end: int, into: memoryview | None = None
    ) -> tuple[memoryview, Sums]:
        options: Any = {} if end - start == remote.size else {"range": (start, end)}
        with in_words(self.url):
            response = obstore.get(self.store, remote.key, options=options)
            body = memoryview(response.bytes())
        if (response.meta.get("e_tag") or "").strip('"') != remote.etag or len(body) != end - start:
            raise ChangedError(f"{self.url}/{remote.key} changed while it was being fetched: run the step again")
        return body, Sums()

    def sums(self, remote: RemoteObject) -> Sums:
        return Sums()

    def read(self, key: str) -> bytes | None:
        try:
            with in_words(self.url):
                return bytes(obstore.get(self.store, key).bytes())
        except NotThereError:
            return None

    def delete(self, key: str) -> None:
        try:
            with in_words(self.url):
                obstore.delete(self.store, key)
        except NotThereError:
            pass

    def upload(self, path: Path, key: str) -> Sent:
        content_type = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
        local = isinstance(self.store, LocalStore)
        attributes: Any = {} if local else {"attributes": {"Content-Type": content_type}}
        for _ in range(2):
            size, sum_ = path.stat().st_size, file_digest(path)
            with in_words(self.url):
                obstore.put(
                    self.store,
                    key,
                    path,
                    **attributes,
                    use_multipart=size > PART_BYTES,
                    chunk_size=PART_BYTES,
                    max_concurrency=PARTS_IN_FLIGHT,
                )
                # There is no sum to compare with but that of what lies there.
                there, back = hashlib.sha256(), obstore.get(self.store, key)
                for chunk in back.stream(min_chunk_size=PART_BYTES):
                    there.update(chunk)
            if there.hexdigest() == sum_:
                return Sent(key, size, sum_, _remote(back.meta).etag)
        raise TemporaryError(
            f"{self.url}/{key} is not what {path} is, twice: run the step again once nothing writes to it"
        )


def _remote(meta: Any) -> RemoteObject:
    return RemoteObject(key=meta["path"], size=meta["size"], etag=(meta.get("e_tag") or "").strip('"'))
