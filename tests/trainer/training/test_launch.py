"""Several processes started by one command, and how the command ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
PARENT = "import sys; from trainer.training.launch import launch; sys.exit(launch('program', sys.argv[1:], 2))"


@pytest.fixture
def start(tmp_path: Path):
    def run(program: str, **variables: str) -> subprocess.Popen[str]:
        (tmp_path / "program.py").write_text("import os, sys\n" + textwrap.dedent(program))
        paths = os.pathsep.join([str(tmp_path), str(ROOT)])
        environment = {**os.environ, "PYTHONPATH": paths, **variables}
        command = [sys.executable, "-c", PARENT, "--some", "argument"]
        return subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment, cwd=tmp_path
        )

    return run


def test_each_knows_who_it_is_and_the_first_one_speaks(start, tmp_path: Path):
    process = start("""
        rank, size = os.environ["RANK"], os.environ["WORLD_SIZE"]
        open(f"{rank}-of-{size}", "w").write(" ".join(sys.argv[1:]))
        print("rank", rank)
    """)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    assert [(tmp_path / name).read_text() for name in ("0-of-2", "1-of-2")] == ["--some argument"] * 2
    assert [line for line in output.splitlines() if line.startswith("rank")] == ["rank 0"]


@pytest.mark.parametrize("rank", ["0", "1"])
def test_the_exit_status_is_that_of_the_process_that_failed(start, rank: str):
    process = start(f"""
        import time
        if os.environ["RANK"] == "{rank}":
            print("error: no such class", file=sys.stderr)
            sys.exit(2)
        time.sleep(60)
    """)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 2, output
    assert output.count("error: no such class") == 1


def test_sigterm_reaches_all_and_they_may_end_what_they_do(start, tmp_path: Path):
    process = start("""
        import pathlib, signal, time
        rank = os.environ["RANK"]
        def stop(number, frame):
            pathlib.Path(f"stopped-{rank}").touch()
            sys.exit(143)
        signal.signal(signal.SIGTERM, stop)
        pathlib.Path(f"ready-{rank}").touch()
        time.sleep(120)
    """)
    while not (tmp_path / "ready-0").exists() or not (tmp_path / "ready-1").exists():
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=120)
    assert process.returncode == 143
    assert (tmp_path / "stopped-0").exists()
    assert (tmp_path / "stopped-1").exists()
