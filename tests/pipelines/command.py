"""`python -m pipelines`, in this process: starting another takes a second or two each time."""

import contextlib
import io
import os
import signal
import sys
from collections.abc import Mapping
from dataclasses import dataclass

from pipelines.cli import main


@dataclass(frozen=True)
class Done:
    """What a command left."""

    returncode: int
    stdout: str
    stderr: str

    @property
    def refusal(self) -> str:
        """The one line in which something was refused."""
        assert self.returncode == 2, self.stdout + self.stderr
        (line,) = self.stderr.splitlines()
        assert line.startswith("error: ")
        return line


def pipelines(*arguments: object, env: Mapping[str, str] | None = None) -> Done:
    """Run a command, with `env` as its whole environment."""
    kept, argv = dict(os.environ), sys.argv
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    stdout, stderr = io.StringIO(), io.StringIO()
    status: object = 0
    try:
        if env is not None:
            os.environ.clear()
            os.environ.update(env)
        sys.argv = ["pipelines", *map(str, arguments)]
        with contextlib.redirect_stdout(stdout), contextlib.redirect_stderr(stderr):
            try:
                main()
            except SystemExit as end:
                status = end.code
    finally:
        os.environ.clear()
        os.environ.update(kept)
        sys.argv = argv
        for number, handler in handlers.items():
            signal.signal(number, handler)
    assert isinstance(status, int)
    return Done(status, stdout.getvalue(), stderr.getvalue())
