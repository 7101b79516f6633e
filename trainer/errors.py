"""The exceptions whose message is meant for the person who started the training."""

from __future__ import annotations


class TrainerError(Exception):
    """Something the user can put right.

    The message is a single line that names the file or field, what is wrong with it, and the remedy, so a
    step may print it as it stands and exit without a traceback.
    """


class PassingError(TrainerError):
    """What another try may find gone: a server that fails or does not answer."""


class BusyError(PassingError):
    """Somebody else is at work there: what is refused now may be possible later."""
