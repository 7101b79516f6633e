"""Trying again what may pass, by elapsed time rather than by count."""

import logging
import random
import threading
import time

from steps.common.errors import StepError, TemporaryError

log = logging.getLogger(__name__)

FIRST_DELAY, LONGEST_DELAY = 0.2, 10.0
SECONDS_BETWEEN_LINES = 10.0


class Patience:
    """How long the failures of one store are borne, by all its threads."""

    def __init__(self, seconds: float, stop: threading.Event) -> None:
        """Remember how long to keep trying, and what ends every wait at once."""
        self.seconds = seconds
        self._stop = stop
        self._told = -SECONDS_BETWEEN_LINES

    def begin(self) -> "Attempts":
        """Begin an operation."""
        return Attempts(self)

    def pause(self, seconds: float, failure: StepError) -> None:
        """Wait, and say now and then what for."""
        if self._stop.is_set():
            raise failure
        now = time.monotonic()
        if now - self._told >= SECONDS_BETWEEN_LINES:
            self._told = now
            log.info("%s; trying again, for %d seconds at most", str(failure).partition(": ")[0], self.seconds)
        if self._stop.wait(seconds):
            raise failure


class Attempts:
    """One operation's attempts."""

    def __init__(self, patience: Patience) -> None:
        self._patience = patience
        self._until = 0.0
        self._delay = FIRST_DELAY

    def failed(self, failure: TemporaryError) -> None:
        """Wait for the next attempt, with exponential back-off and jitter; raise `failure` once time is up."""
        now = time.monotonic()
        # From the first failure: what came before it was no outage.
        self._until = self._until or now + self._patience.seconds
        left = self._until - now
        if left <= 0:
            raise failure
        self._patience.pause(min(self._delay * random.uniform(0.5, 1), left), failure)
        self._delay = min(2 * self._delay, LONGEST_DELAY)
