"""Starting processes as a terminal does."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PROJECT = Path(__file__).parents[1]


def hear_ctrl_c() -> None:
    """Run in a new process before its program: a shell's background jobs, CI's for one, are started deaf to Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@contextmanager
def held(folder: Path, step: str, file: str) -> Iterator[int]:
    """Let another process hold a folder's lock as a step would; give its number."""
    code = (
        "import sys; from pathlib import Path; from trainer.lock import only_writer\n"
        "with only_writer(Path(sys.argv[1]), *sys.argv[2:]): print('held', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", code, str(folder), step, file]
    with subprocess.Popen(command, cwd=PROJECT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        try:
            yield process.pid
        finally:
            process.kill()
