from __future__ import annotations

import logging
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from trainer.training.progress import Progress, in_words

ROOT = Path(__file__).parents[3]


def test_progress_is_told_every_so_often(caplog):
    caplog.set_level(logging.INFO, logger="trainer")
    patient, eager = Progress(lambda: 3, 5, 1e6, bar=False), Progress(lambda: 3, 5, 1e-9, bar=False)
    patient.step(0, 1, 1.0)
    assert not caplog.records
    eager.step(1, 2, 1.25)
    assert "epoch 2/3, step 2/5: loss 1.250" in caplog.text
    assert eager.left(3, 0) == 0


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.2, "0 s"), (59.7, "1 min 0 s"), (200, "3 min 20 s"), (7500, "2 h 5 min")]
)
def test_durations_in_words(seconds: float, words: str):
    assert in_words(seconds) == words


PROGRAM = """
import logging, sys, time
from trainer.training.progress import Progress
logging.basicConfig(level=logging.INFO, format="%(message)s", stream=getattr(sys, sys.argv[1]))
with Progress(lambda: 2, 3, 1e6, bar=True) as progress:
    for step in range(1, 4):
        progress.step(0, step, 1.5)
        time.sleep(0.15)
    logging.info("a line of the log")
    time.sleep(0.15)
logging.info("the end")
"""


def on_a_terminal(stream: str, **streams: int) -> str:
    """What a terminal shows of the program, which logs to `stream`; `streams` go elsewhere."""
    terminal, side = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, stream],
        cwd=ROOT,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "120"},
        **{"stdout": side, "stderr": side, **streams},
    )
    os.close(side)
    written = b""
    while True:
        try:
            part = os.read(terminal, 4096)
        except OSError:  # How a terminal ends on Linux.
            break
        if not part:
            break
        written += part
    assert process.wait() == 0
    return written.decode()


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_a_terminal_gets_a_bar_with_the_log_above_it(stream: str):
    text = on_a_terminal(stream)
    assert "epoch 1/2" in text
    assert "3/3" in text
    assert "loss 1.500" in text
    # On a line of its own: the bar's was erased before it.
    before, _, after = text.partition("a line of the log")
    assert before.endswith(("\x1b[2K", "\r\n"))
    assert after.lstrip(" ").startswith("\r\n")
    assert text.rstrip().endswith("the end")


def test_a_log_that_goes_to_a_file_stays_there(tmp_path: Path):
    with (tmp_path / "log").open("wb") as file:
        text = on_a_terminal("stdout", stdout=file.fileno())
    assert "3/3" in text
    assert "a line of the log" not in text
    assert (tmp_path / "log").read_text() == "a line of the log\nthe end\n"
