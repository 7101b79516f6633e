"""Objects on their way here: many small ones at once, large ones in parts, each compared with the store's sum."""

import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from io import FileIO
from pathlib import Path
from typing import Any

from steps.common.errors import StepError, TemporaryError
from steps.common.progress import Advance
from steps.storage.checksums import COMBINED, Expected, Pieces, Sums, Tally
from steps.storage.errors import NotThereError
from steps.storage.objects import RemoteObject, Span
from steps.storage.threads import BUFFERS, OBJECTS_IN_FLIGHT, PART_BYTES, each

log = logging.getLogger(__name__)

ASKED_AT_ONCE = 64
"""Spans under way in one thread."""
MEMORY_BYTES = OBJECTS_IN_FLIGHT * PART_BYTES
WRITERS = 8
"""Threads that write down what arrives."""
SMALL_BYTES = 256 * 1024
SLOW_SECONDS = 0.002
"""What a small one takes to be written, from which on it is left to them: a local disk needs a tenth of it."""

Ended = Sequence[tuple[Span, tuple[memoryview, Sums] | None]]
"""Spans that were asked for, each with what came of it."""

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
        arrivals = (_Arrival(*item, self._scratch / f"object-{number}") for number, item in enumerate(wanted))
        spans = (span for arrival in arrivals for span in arrival.spans())
        if not self._bucket.gives_many:
            each(spans, OBJECTS_IN_FLIGHT, self._patiently, self._bucket.stop)
            return
        while failed := self._quickly(spans):
            each(failed, OBJECTS_IN_FLIGHT, self._patiently, self._bucket.stop)

    def _quickly(self, spans: Iterator[Span]) -> list[Span]:
        """Ask for span after span, until one fails; give those that did, of which nothing is told or tried again."""
        failed: list[Span] = []
        lent: dict[int, memoryview] = {}
        asked = taken = 0
        """Bytes of objects in one part, which need memory of their own."""

        def ready() -> Iterator[Span | None]:
            nonlocal asked
            while not failed and (span := next(spans, None)):
                if span.of.small:
                    while asked - taken > MEMORY_BYTES - PART_BYTES:
                        yield None
                    asked += span.remote.size
                else:
                    while (buffer := BUFFERS.take_now()) is None:
                        yield None
                    lent[id(buffer)] = buffer
                    span = replace(span, into=buffer)
                yield span

        def take(ended: Ended) -> None:
            nonlocal taken
            for span, found in ended:
                try:
                    failed.extend(self._take(span, *found) if found else [replace(span, into=None)])
                finally:
                    if span.into is not None:
                        BUFFERS.give_back(lent.pop(id(span.into)))
                    else:
                        with self._account:
                            taken += span.remote.size

        try:
            with (
                ThreadPoolExecutor(WRITERS) as writers,
                closing(self._bucket.get_many(ready(), ASKED_AT_ONCE)) as arriving,
            ):
                try:
                    _each_taken(arriving, take, writers)
                except BaseException:
                    self._bucket.stop.set()  # The writers may ask the store as well.
                    raise
        finally:
            for buffer in lent.values():
                BUFFERS.give_back(buffer)
        return failed

    def _patiently(self, span: Span) -> None:
        """Ask for a span until it arrives."""
        buffer = None if span.of.small else BUFFERS.take()
        try:
            again = self._take(span, *self._bucket.get(span.remote, span.start, span.end, buffer))
        except NotThereError:
            raise NotThereError(
                f"{self._bucket.url}/{span.remote.key} vanished while it was being fetched: run the step again"
            ) from None
        finally:
            if buffer is not None:
                BUFFERS.give_back(buffer)
        for each_span in again:
            self._patiently(each_span)

    def _take(self, span: Span, body: memoryview, sums: Sums) -> Sequence[Span]:
        """Write down a span that arrived; give those to be asked for again."""
        arrival: _Arrival = span.of
        if arrival.first is None:
            with self._account:
                self._advance(len(body))
        if not arrival.small:
            return self._finish(arrival, arrival.temporary) if arrival.put(self._bucket, span.start, body) else ()
        if sums.expected is None and sums.count:
            sums = self._bucket.sums(span.remote)
        arrival.expected, arrival.tally = sums.expected, Tally(sums.expected)
        arrival.tally.add(body)
        # A name a thread, used again and again: a name an object makes file systems twice as slow.
        temporary = f"{self._scratch}/{threading.get_ident()}"
        with FileIO(temporary, "w") as file:
            write_at(file.fileno(), body, 0, temporary)
        return self._finish(arrival, temporary)

    def _finish(self, arrival: "_Arrival", temporary: Path | str) -> Sequence[Span]:
        """Put an object in its place, or give the spans to be asked for again if it is not what it should be."""
        remote, target, tally, expected = arrival.remote, arrival.target, arrival.tally, arrival.expected
        if expected and not tally.agrees:
            if arrival.first is None:
                return list(_Arrival(remote, target, arrival.temporary, first=tally.sum).spans())
            self._doubt(remote, tally.sum == arrival.first, expected)
        os.replace(temporary, target)
        with self._account:
            self._done(remote, target, tally.sum)
        return ()

    def _doubt(self, remote: RemoteObject, alike: bool, expected: Expected) -> None:
        """Decide on an object that did not agree with its checksum twice."""
        name, sum_ = f"{self._bucket.url}/{remote.key}", expected.algorithm.upper()
        if not alike:
            raise TemporaryError(f"{name} arrived damaged twice ({sum_} sum): run the step again")
        if not expected.guessed:
            raise StepError(f"{name} is not what its {sum_} sum in the store says, twice alike: put it there again")
        log.info("%s came twice alike; its store does not tell the parts that its entity tag sums up", name)


class _Arrival:
    """An object on its way."""

    def __init__(self, remote: RemoteObject, target: Path, temporary: Path, first: str | None = None) -> None:
        self.remote = remote
        self.target = target
        self.temporary = temporary
        """Where its parts gather."""
        self.first = first
        """What its bytes added up to when they came before and were not what they should be."""
        self.small = remote.size <= PART_BYTES
        """Whether it comes in one part."""
        self.expected: Expected | None = None
        self.tally = Tally(None)
        self._missing = -(-remote.size // PART_BYTES)
        self._asked = False
        self._lock = threading.Lock()

    def spans(self) -> Iterator[Span]:
        for start in range(0, max(1, self.remote.size), PART_BYTES):
            yield Span(self.remote, start, min(start + PART_BYTES, self.remote.size), of=self)

    def put(self, bucket: Any, start: int, body: memoryview) -> bool:
        """Write down a part; tell whether it was the last one missing, and all are added up."""
        with self._lock:
            if not self._asked:
                self.expected = expected = bucket.sums(self.remote).expected
                combined = expected and not expected.parts and expected.algorithm in COMBINED
                self.tally = Pieces(expected) if expected and combined else Tally(expected)
                self._asked = True
        if isinstance(self.tally, Pieces):
            self.tally.add_at(start, body)
        descriptor = os.open(self.temporary, os.O_WRONLY | os.O_CREAT, 0o666)
        try:
            write_at(descriptor, body, start, self.temporary)
        finally:
            os.close(descriptor)
        with self._lock:
            self._missing -= 1
            if self._missing:
                return False
        if isinstance(self.tally, Pieces):
            self.tally.combine()
        else:
            with self.temporary.open("rb", buffering=0) as file:
                while block := file.read(PART_BYTES // 8):
                    self.tally.add(block)
        return True


def _each_taken(arriving: Iterator[Ended], take: Callable[[Ended], None], writers: Executor) -> None:
    """Let all be taken that arrives, in other threads where this one would be kept from the network for long."""
    seconds = 0.0
    """What a small one took lately."""

    def timed(ended: Ended) -> None:
        nonlocal seconds
        started = time.perf_counter()
        take(ended)
        seconds += 0.1 * ((time.perf_counter() - started) / len(ended) - seconds)

    writing: deque[Future[None]] = deque()
    for ended in arriving:
        sizes = [span.end - span.start for span, _ in ended]
        small = [item for item, size in zip(ended, sizes, strict=True) if size <= SMALL_BYTES]
        writing.extend(
            writers.submit(take, [item]) for item, size in zip(ended, sizes, strict=True) if size > SMALL_BYTES
        )
        if small and seconds > SLOW_SECONDS:
            writing.append(writers.submit(timed, small))
        elif small:
            timed(small)
        while writing and (writing[0].done() or len(writing) > 2 * WRITERS):
            writing.popleft().result()
    for written in writing:
        written.result()


def write_at(descriptor: int, body: memoryview, offset: int, path: Path | str) -> None:
    """Write all of `body`: a disk that is filling up takes a part of it first, without an error."""
    try:
        while len(body):
            written = os.pwrite(descriptor, body, offset)
            body, offset = body[written:], offset + written
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None
