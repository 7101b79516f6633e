"""Progress for people: a bar on a terminal, a plain line now and then in a pod's log."""

import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.filesize import decimal
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

log = logging.getLogger(__name__)

SECONDS_BETWEEN_LINES = 10.0

Advance = Callable[[int], None]


@contextmanager
def progress(title: str, total: int, *, unit: str = "bytes") -> Iterator[Advance]:
    """Give a function to call with how many of `total` were done since its last call."""
    if sys.stderr.isatty():
        figures = [DownloadColumn(), TransferSpeedColumn()] if unit == "bytes" else [MofNCompleteColumn()]
        columns = (TextColumn("{task.description}"), BarColumn(), *figures, TimeRemainingColumn())
        with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
            task = bars.add_task(title, total=total)
            yield lambda amount: bars.advance(task, amount)
        return

    done, last_line = 0, time.monotonic()

    def advance(amount: int) -> None:
        nonlocal done, last_line
        done += amount
        if time.monotonic() - last_line >= SECONDS_BETWEEN_LINES:
            last_line = time.monotonic()
            so_far, of = (decimal(done), decimal(total)) if unit == "bytes" else (str(done), f"{total} {unit}")
            log.info("%s: %s of %s (%d%%)", title, so_far, of, 100 * done // max(total, 1))

    yield advance
