"""Objects on their way here: many small ones at once, large ones in parts, each compared with the store's sum."""

import logging
import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from steps.common.errors import StepError, TemporaryError
from steps.common.progress import Advance
from steps.storage.checksums import COMBINED, Expected, Pieces, Tally
from steps.storage.errors import NotThereError
from steps.storage.objects import RemoteObject
from steps.storage.threads import BUFFERS, OBJECTS_IN_FLIGHT, PART_BYTES, PARTS_IN_FLIGHT, each

log = logging.getLogger(__name__)

Done = Callable[[RemoteObject, Path, str], None]
"""Called with an object that arrived, its file and the sum of its bytes, `algorithm:hexadecimal`."""


class Download:
    """Fetches objects into a folder, each under a temporary name until it is whole."""

    def __init__(self, bucket: Any, scratch: Path, advance: Advance, done: Done) -> None:
        self._bucket = bucket
        self._scratch = scratch
        self._advance = advance
        self._done = done
        self._account = threading.Lock()

    def all(self, wanted: Sequence[tuple[RemoteObject, Path]]) -> None:
        for folder in {target.parent for _, target in wanted}:
            folder.mkdir(parents=True, exist_ok=True)
        workers = min(OBJECTS_IN_FLIGHT, len(wanted))
        each(wanted, workers, lambda item: self._one(*item), self._bucket.stop)

    def _one(self, remote: RemoteObject, target: Path) -> None:
        # A name a thread, used again and again: a name an object makes file systems twice as slow.
        temporary = self._scratch / str(threading.get_ident())
        try:
            tally, expected = self._write(remote, temporary)
            if expected and not tally.agrees:
                first = tally.sum
                tally, expected = self._write(remote, temporary)
                if expected and not tally.agrees:
                    self._doubt(remote, tally.sum == first, expected)
        except NotThereError:
            raise NotThereError(
                f"{self._bucket.url}/{remote.key} vanished while it was being fetched: run the step again"
            ) from None
        os.replace(temporary, target)
        with self._account:
            self._done(remote, target, tally.sum)
            self._advance(remote.size)

    def _doubt(self, remote: RemoteObject, alike: bool, expected: Expected) -> None:
        """Decide on an object that did not agree with its checksum twice."""
        name, sum_ = f"{self._bucket.url}/{remote.key}", expected.algorithm.upper()
        if not alike:
            raise TemporaryError(f"{name} arrived damaged twice ({sum_} sum): run the step again")
        if not expected.guessed:
            raise StepError(f"{name} is not what its {sum_} sum in the store says, twice alike: put it there again")
        log.info("%s came twice alike; its store does not tell the parts that its entity tag sums up", name)

    def _write(self, remote: RemoteObject, temporary: Path) -> tuple[Tally, Expected | None]:
        """Write an object's bytes; give what they add up to, and what they should."""
        if remote.size <= PART_BYTES:
            body, sums = self._bucket.get(remote, 0, remote.size)
            if sums.expected is None and sums.count:
                sums = self._bucket.sums(remote)
            tally = Tally(sums.expected)
            tally.add(body)
            with temporary.open("wb", buffering=0) as file:
                write_at(file.fileno(), body, 0, temporary)
            return tally, sums.expected

        expected = self._bucket.sums(remote).expected
        pieces = Pieces(expected) if expected and not expected.parts and expected.algorithm in COMBINED else None
        with temporary.open("wb", buffering=0) as file:
            descriptor = file.fileno()

            def part(start: int) -> None:
                buffer = BUFFERS.take()
                try:
                    end = min(start + PART_BYTES, remote.size)
                    body, _ = self._bucket.get(remote, start, end, buffer)
                    if pieces:
                        pieces.add_at(start, body)
                    write_at(descriptor, body, start, temporary)
                finally:
                    BUFFERS.give_back(buffer)

            each(range(0, remote.size, PART_BYTES), PARTS_IN_FLIGHT, part)
        if pieces:
            pieces.combine()
            return pieces, expected
        tally = Tally(expected)
        with temporary.open("rb", buffering=0) as file:
            while block := file.read(PART_BYTES // 8):
                tally.add(block)
        return tally, expected


def write_at(descriptor: int, body: memoryview, offset: int, path: Path) -> None:
    """Write all of `body`: a disk that is filling up takes a part of it first, without an error."""
    try:
        while len(body):
            written = os.pwrite(descriptor, body, offset)
            body, offset = body[written:], offset + written
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None
