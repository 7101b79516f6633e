"""Objects on their way: many small ones in flight at once, large ones in parts."""

import hashlib
import mimetypes
import os
import re
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import obstore
from obstore.store import LocalStore

from steps.common.errors import StepError
from steps.common.progress import Advance

OBJECTS_IN_FLIGHT = 32
PART_BYTES = 8 * 1024 * 1024
"""Objects above this size move in parts of it; what is in memory is bounded by this times the flights."""
PARTS_IN_FLIGHT = 8

T = TypeVar("T")
END = object()


@dataclass(frozen=True)
class RemoteObject:
    """One object: its complete key, its size in bytes, and its entity tag where the store gives one."""

    key: str
    size: int
    etag: str = ""

    @property
    def version(self) -> tuple[int, str]:
        """What tells a later object of the same key from this one."""
        return self.size, self.etag


def each(items: Sequence[T], workers: int, act: Callable[[T], None]) -> None:
    """Apply `act` to every item in up to `workers` threads; the first failure stops the rest.

    Threads rather than an event loop: obstore lets go of the interpreter while it waits, and so do the writing of
    files and the summing of bytes, which would hold an event loop up.
    """
    if not items:
        return
    workers = min(workers, len(items))
    queue, turn, failed = iter(items), threading.Lock(), threading.Event()

    def work() -> None:
        while not failed.is_set():
            with turn:
                item = next(queue, END)
            if item is END:
                return
            try:
                act(item)  # type: ignore[arg-type] # END was just ruled out
            except BaseException:
                failed.set()
                raise

    with ThreadPoolExecutor(workers) as threads:
        tasks = [threads.submit(work) for _ in range(workers)]
        try:
            for task in tasks:
                task.result()
        except BaseException:
            failed.set()  # Ctrl-C arrives here, not in the threads.
            raise


class Download:
    """Fetches objects into a folder, each under a temporary name until it is whole."""

    def __init__(
        self, store: Any, url: str, scratch: Path, advance: Advance, done: Callable[[RemoteObject, Path], None]
    ) -> None:
        self._store = store
        self._url = url
        self._scratch = scratch
        self._advance = advance
        self._done = done
        self._account = threading.Lock()
        self._parts = threading.BoundedSemaphore(PARTS_IN_FLIGHT)
        # Servers that encrypt with a managed key give tags that look like MD5 sums and are none.
        self._etag_is_md5 = True

    def all(self, wanted: Sequence[tuple[RemoteObject, Path]]) -> None:
        for folder in {target.parent for _, target in wanted}:
            folder.mkdir(parents=True, exist_ok=True)
        each(wanted, OBJECTS_IN_FLIGHT, lambda item: self._one(*item))

    def _one(self, remote: RemoteObject, target: Path) -> None:
        # A name a thread, used again and again: a name an object makes file systems twice as slow.
        temporary = self._scratch / str(threading.get_ident())
        digest = self._write(remote, temporary)
        if self._etag_is_md5 and digest and digest != remote.etag:
            if self._write(remote, temporary) != digest:
                raise StepError(f"{self._url}/{remote.key} arrived damaged twice (MD5 sum): run the step again")
            self._etag_is_md5 = False
        os.replace(temporary, target)
        with self._account:
            self._done(remote, target)
            self._advance(remote.size)

    def _write(self, remote: RemoteObject, temporary: Path) -> str:
        """Write the object's bytes; give their MD5 sum where the entity tag can be compared with it."""
        comparable = re.fullmatch(r"[0-9a-f]{32}", remote.etag) is not None
        if remote.size <= PART_BYTES:
            body = self._get(remote, 0, remote.size)
            temporary.write_bytes(body)
            return hashlib.md5(body, usedforsecurity=False).hexdigest() if comparable else ""
        with temporary.open("wb") as file:
            file.truncate(remote.size)

            def part(start: int) -> None:
                with self._parts:
                    os.pwrite(file.fileno(), self._get(remote, start, min(start + PART_BYTES, remote.size)), start)

            each(range(0, remote.size, PART_BYTES), PARTS_IN_FLIGHT, part)
        return _md5_of_file(temporary) if comparable else ""

    def _get(self, remote: RemoteObject, start: int, end: int) -> memoryview:
        options: Any = {} if end - start == remote.size else {"range": (start, end)}
        try:
            response = obstore.get(self._store, remote.key, options=options)
            body = memoryview(response.bytes())
        except FileNotFoundError:
            raise StepError(
                f"{self._url}/{remote.key} vanished while it was being fetched: run the step again"
            ) from None
        if (response.meta.get("e_tag") or "").strip('"') != remote.etag or len(body) != end - start:
            raise StepError(f"{self._url}/{remote.key} changed while it was being fetched: run the step again")
        return body


def _md5_of_file(path: Path) -> str:
    sum_ = hashlib.md5(usedforsecurity=False)
    with path.open("rb") as file:
        while block := file.read(PART_BYTES):
            sum_.update(block)
    return sum_.hexdigest()


def upload(store: Any, url: str, path: Path, key: str) -> int:
    """Put a file at a key, see that it arrived, and give its size."""
    size = path.stat().st_size
    content_type = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
    # Without a type a browser downloads the report instead of showing it.
    attributes: Any = {} if isinstance(store, LocalStore) else {"attributes": {"Content-Type": content_type}}
    obstore.put(
        store,
        key,
        path,
        **attributes,
        use_multipart=size > PART_BYTES,
        chunk_size=PART_BYTES,
        max_concurrency=PARTS_IN_FLIGHT,
    )
    arrived = obstore.head(store, key)["size"]
    if arrived != size:
        raise StepError(f"{url}/{key} holds {arrived} bytes of the {size} of {path}: run the step again")
    return size
