from __future__ import annotations

import os
import signal
import threading

from trainer.training.preemption import Interrupt


def test_a_signal_is_remembered_and_the_old_handler_comes_back():
    before = signal.getsignal(signal.SIGTERM)
    with Interrupt() as interrupt:
        assert not interrupt.stop_requested
        os.kill(os.getpid(), signal.SIGTERM)
        assert interrupt.stop_requested
    assert signal.getsignal(signal.SIGTERM) is before


def test_another_thread_leaves_the_handler_alone():
    seen = []

    def work() -> None:
        with Interrupt() as interrupt:
            seen.append((signal.getsignal(signal.SIGTERM), interrupt.stop_requested))

    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [(before, False)]
