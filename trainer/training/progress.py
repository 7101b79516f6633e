"""Where a training is, for people: a bar on a terminal, a plain line now and then in a pod's log."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable
from types import TracebackType

from rich import progress as bars
from rich.console import Console
from rich.highlighter import NullHighlighter
from rich.logging import RichHandler

_log = logging.getLogger("trainer")


class Progress:
    """Tells of every step on a terminal, and every few seconds elsewhere; enter it for the time of the training."""

    def __init__(self, epochs: Callable[[], int], steps_per_epoch: int, every_seconds: float, *, bar: bool) -> None:
        """Takes how to tell.

        Args:
            epochs: gives the number of epochs, which may change on the way.
            steps_per_epoch: optimizer steps of one.
            every_seconds: between two lines.
            bar: draw a bar on stderr if that is a terminal.
        """
        self.epochs = epochs
        self.steps_per_epoch = steps_per_epoch
        self.every_seconds = every_seconds
        self._bar = _Bar() if bar and sys.stderr.isatty() else None
        self._started = self._spoke = time.monotonic()
        self._steps = self._steps_then = 0

    def __enter__(self) -> Progress:
        if self._bar is not None:
            self._bar.open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()

    def step(self, epoch: int, step_in_epoch: int, loss: float) -> None:
        """Counts a step, and says where training is when it is time to; `epoch` is complete epochs."""
        self._steps += 1
        now = time.monotonic()
        if self._bar is not None:
            left = in_words(self.left(epoch, step_in_epoch))
            title = f"epoch {epoch + 1}/{self.epochs()}"
            self._bar.draw(title, step_in_epoch, self.steps_per_epoch, f"loss {loss:.3f}, {left} left")
            return
        if now - self._spoke < self.every_seconds:
            return
        pace = (now - self._spoke) / (self._steps - self._steps_then)
        self._spoke, self._steps_then = now, self._steps
        _log.info(
            "epoch %d/%d, step %d/%d: loss %.3f, %.3f s/step, %s left",
            epoch + 1,
            self.epochs(),
            step_in_epoch,
            self.steps_per_epoch,
            loss,
            pace,
            in_words(self.left(epoch, step_in_epoch)),
        )

    def left(self, epoch: int, step_in_epoch: int) -> float:
        """Seconds to the end at the pace so far, validation included."""
        pace = (time.monotonic() - self._started) / max(1, self._steps)
        return pace * ((self.epochs() - epoch) * self.steps_per_epoch - step_in_epoch)


class _Bar:
    """One line at the bottom of the terminal; what is logged meanwhile stands above it."""

    def __init__(self) -> None:
        columns = (
            bars.TextColumn("{task.description}"),
            bars.BarColumn(),
            bars.MofNCompleteColumn(),
            bars.TextColumn("{task.fields[figures]}"),
        )
        console = Console(stderr=True)
        # What goes to a file stays in the file.
        self._bars = bars.Progress(*columns, console=console, transient=True, redirect_stdout=sys.stdout.isatty())
        self._task = self._bars.add_task("", total=None, figures="")
        self._log = RichHandler(
            console=console, show_time=False, show_level=False, show_path=False, highlighter=NullHighlighter()
        )
        self._replaced: list[logging.Handler] = []

    def open(self) -> None:
        root = logging.getLogger()
        self._replaced = [h for h in root.handlers if isinstance(h, logging.StreamHandler) and h.stream.isatty()]
        for handler in self._replaced:
            self._log.setFormatter(handler.formatter)
            root.removeHandler(handler)
        if self._replaced:
            root.addHandler(self._log)
        self._bars.start()

    def close(self) -> None:
        self._bars.stop()
        root = logging.getLogger()
        root.removeHandler(self._log)
        for handler in self._replaced:
            root.addHandler(handler)

    def draw(self, title: str, done: int, total: int, figures: str) -> None:
        self._bars.update(self._task, description=title, completed=done, total=total, figures=figures)


def in_words(seconds: float) -> str:
    """A duration to be read: "45 s", "3 min 20 s", "2 h 5 min"."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
