"""How a step says that it cannot go on, and with which exit status."""

import os

EXIT_USER_ERROR = 2
"""Exit status of a step that refused its input: trying again cannot help, so the manifests do not retry on it."""
EXIT_TEMPORARY = os.EX_TEMPFAIL
"""Exit status (75, `EX_TEMPFAIL` of sysexits.h) of a step that something passing stopped: try again, a little later."""


class StepError(Exception):
    """Bad input, said in one line that names the file or address, the field and the remedy.

    `python -m steps` prints it without a traceback and exits with its `exit_status`; anything else that
    escapes a step is a defect and keeps its traceback.
    """

    exit_status = EXIT_USER_ERROR


class TemporaryError(StepError):
    """What another try may find gone: a network that is down, a busy store, an object that changed on the way."""

    exit_status = EXIT_TEMPORARY
