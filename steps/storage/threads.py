"""Many transfers at a time."""

import queue
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

OBJECTS_IN_FLIGHT = 32
PART_BYTES = 8 * 1024 * 1024
"""Objects above this size move in parts of it; what is in memory is bounded by this times the flights."""
PARTS_IN_FLIGHT = 8

T = TypeVar("T")
END = object()


class Buffers:
    """Memory for the parts in flight, used again and again: fresh memory costs as much as the bytes that go into it."""

    def __init__(self, count: int, size: int) -> None:
        """Set the bounds; the memory is taken when it is first needed."""
        self._size = size
        self._free: queue.LifoQueue[memoryview | None] = queue.LifoQueue()
        for _ in range(count):
            self._free.put(None)

    @property
    def free(self) -> int:
        """Number of buffers that nobody uses."""
        return self._free.qsize()

    def take(self) -> memoryview:
        """Wait for a buffer."""
        return self._free.get() or memoryview(bytearray(self._size))

    def take_now(self) -> memoryview | None:
        """Give a buffer, or None where all are in use."""
        try:
            return self._free.get_nowait() or memoryview(bytearray(self._size))
        except queue.Empty:
            return None

    def give_back(self, buffer: memoryview) -> None:
        """Let others use a buffer."""
        self._free.put(buffer)


BUFFERS = Buffers(PARTS_IN_FLIGHT + 4, PART_BYTES)
"""Those of the process, whatever is under way in it: a few more than parts in flight, for those being written."""


def each(items: Iterable[T], workers: int, act: Callable[[T], None], stop: threading.Event | None = None) -> None:
    """Apply `act` to every item in up to `workers` threads; the first failure stops the rest and is raised.

    Each may wait, and be tried again, without holding up the others. What is asked for once, and many at a time, comes
    cheaper from one thread (`steps.storage.wire.Wire.get_many`).

    Args:
        items: taken one at a time, in order.
        workers: number of threads.
        act: what to do with each.
        stop: is set at a failure, for what waits inside `act`.
    """
    if not workers:
        return
    queue, turn, failed = iter(items), threading.Lock(), threading.Event()
    failures: list[BaseException] = []

    def fail() -> None:
        failed.set()
        if stop is not None:
            stop.set()

    def work() -> None:
        while not failed.is_set():
            try:
                with turn:
                    item = next(queue, END)
                if item is END:
                    return
                act(item)  # type: ignore[arg-type] # END was just ruled out
            except BaseException as error:
                failures.append(error)
                fail()
                return

    with ThreadPoolExecutor(workers) as threads:
        tasks = [threads.submit(work) for _ in range(workers)]
        try:
            for task in tasks:
                task.result()
        except BaseException:
            fail()  # Ctrl-C arrives here, not in the threads.
            raise
    if failures:
        raise failures[0]
