"""SIGTERM ends a step, as process 1 of a container too, where the kernel would pass it over.

Imports next to nothing: what comes before it is deaf.
"""

import contextlib
import os
import signal
import sys
import threading
import time
from types import FrameType
from typing import NoReturn

EXIT_STOPPED = 128 + signal.SIGTERM
SECONDS_TO_CLEAN_UP = 3.0
"""From the signal on, for what wants to tidy up; then the process ends, whatever it is waiting for."""


def end_on_sigterm() -> None:
    """Let SIGTERM end this process within seconds, with a line and status 143; call it in the main thread.

    What is under way ends as by an exception, `SystemExit`, so that files under temporary names go. A thread sees to
    it that the process ends even where the main thread is deep in a call that returns to Python late, or waits for
    other threads. Whoever sets another handler for a time, as training does, is left alone meanwhile.
    """
    if signal.getsignal(signal.SIGTERM) is _stop or not hasattr(os, "register_at_fork"):
        return  # Called before; or a system on which the command line will refuse to work.
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.signal(signal.SIGTERM, _stop)
    # Written to by the interpreter's C code, at once and whatever Python is busy with.
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    # A forked process has the pipe but not the thread: no signal to it may end this one.
    os.register_at_fork(before=_hold, after_in_parent=_release, after_in_child=_forget)
    threading.Thread(target=_watch, args=(reader,), name="sigterm", daemon=True).start()


def _stop(number: int, frame: FrameType | None) -> NoReturn:
    # No more of the same: what tidies up is not to be interrupted.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    print("stopped by SIGTERM; run the same step again to go on", file=sys.stderr, flush=True)
    raise SystemExit(EXIT_STOPPED)


def _hold() -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})


def _release() -> None:
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})


def _forget() -> None:
    # In a child the thread that forked is the main one.
    signal.set_wakeup_fd(-1)
    if signal.getsignal(signal.SIGTERM) is _stop:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
    _release()


def _watch(reader: int) -> None:
    while number := os.read(reader, 1):
        if number[0] == signal.SIGTERM and signal.getsignal(signal.SIGTERM) in (_stop, signal.SIG_IGN):
            time.sleep(SECONDS_TO_CLEAN_UP)
            # Not imported here: who has children has imported it, and whoever is importing it may be who hangs.
            processes = sys.modules.get("multiprocessing.process")
            for child in getattr(processes, "active_children", list)():
                child.kill()
            with contextlib.suppress(OSError, ValueError):
                sys.stdout.flush()
            os._exit(EXIT_STOPPED)
