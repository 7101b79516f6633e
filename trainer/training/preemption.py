"""SIGTERM as a request to stop, which is met at the next safe moment."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any


class Interrupt:
    """While entered, remembers a SIGTERM instead of dying of it.

    Kubernetes sends SIGTERM to a pod it moves and kills it half a minute later; that is time enough to
    finish a step and write a checkpoint, and in the middle of a step there would be nothing to write.
    """

    def __init__(self) -> None:
        self.stop_requested = False
        self._before: Any = None

    def __enter__(self) -> Interrupt:
        # Python lets only the main thread set handlers; elsewhere the signal is somebody else's.
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGTERM, self._remember)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)

    def _remember(self, number: int, frame: FrameType | None) -> None:
        self.stop_requested = True
