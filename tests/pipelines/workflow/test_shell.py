"""The shells around a step, run by a real shell."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipelines.workflow.shell import ONEPANEL_RUN, install_and_run, install_and_run_beside

COUNT = 'echo x >> "$0"; exit $(sed -n "$(wc -l < "$0")p" "$1")'
"""A step that counts its attempts in a file, and exits with the status in that line of another file."""


def quick(script: str) -> str:
    """The script with pauses of nothing."""
    assert "10 30 90 270 600 end" in script
    return script.replace("10 30 90 270 600 end", "0 0 0 0 0 end")


def attempts(folder: Path, statuses: list[int], refused: str = "") -> tuple[int, int]:
    """Run a step on Onepanel; return the exit status and the number of attempts."""
    count, wanted = folder / "count", folder / "statuses"
    wanted.write_text("".join(f"{status}\n" for status in statuses))
    command = ["sh", "-c", quick(ONEPANEL_RUN), refused, "sh", "-c", COUNT, str(count), str(wanted)]
    status = subprocess.run(command, capture_output=True, text=True).returncode
    return status, count.read_text().count("x") if count.exists() else 0


@pytest.mark.parametrize(
    ("statuses", "expected"),
    [
        ([0], (0, 1)),
        ([2], (2, 1)),
        ([1], (1, 1)),
        ([137], (137, 1)),
        ([75, 75, 0], (0, 3)),
        ([75, 2], (2, 2)),
        ([75] * 9, (75, 6)),
    ],
)
def test_on_onepanel_only_what_may_pass_is_tried_again(
    tmp_path: Path, statuses: list[int], expected: tuple[int, int]
) -> None:
    assert attempts(tmp_path, statuses) == expected


def test_on_onepanel_what_was_refused_is_not_done_again(tmp_path: Path) -> None:
    refused = str(tmp_path / ".refused")
    assert attempts(tmp_path, [143], refused) == (143, 1)
    assert attempts(tmp_path, [143, 2], refused) == (2, 2)
    assert attempts(tmp_path, [143, 2, 0], refused) == (2, 2)


def test_on_onepanel_the_step_hears_sigterm_and_ends_in_its_own_way(tmp_path: Path) -> None:
    code = (
        "import signal, sys, time, pathlib\n"
        "def stop(*_):\n    time.sleep(0.5); print('saved', flush=True); sys.exit(143)\n"
        "signal.signal(signal.SIGTERM, stop); print('ready', flush=True); time.sleep(60)\n"
    )
    command = ["sh", "-c", ONEPANEL_RUN, "", sys.executable, "-c", code]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        os.kill(process.pid, signal.SIGTERM)
        assert process.stdout.read() == "saved\n"
    assert process.returncode == 143


def test_on_onepanel_sigterm_ends_a_pause(tmp_path: Path) -> None:
    command = ["sh", "-c", ONEPANEL_RUN, "", "sh", "-c", "exit 75"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert "trying again" in process.stdout.readline()
        time.sleep(0.2)  # For the pause to begin.
        os.kill(process.pid, signal.SIGTERM)
    assert process.returncode == 143


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """One in which `python` is this one, and pip finds nothing."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").symlink_to(sys.executable)
    path = f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": "", "PIP_CONFIG_FILE": os.devnull}


def test_a_source_without_locks_is_the_users_mistake(tmp_path: Path, environment: dict[str, str]) -> None:
    script = install_and_run(str(tmp_path / "packages"))
    done = subprocess.run(
        ["sh", "-c", script, str(tmp_path / "none.txt"), "echo", "started"],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert "make lock" in done.stderr


def test_why_there_was_no_step_is_left_where_kubernetes_looks(tmp_path: Path, environment: dict[str, str]) -> None:
    log, refused = tmp_path / "termination-log", tmp_path / ".refused"
    log.touch()
    refused.touch()
    for script, zero, said in (
        (install_and_run(str(tmp_path)), tmp_path / "none.txt", f"the source has no {tmp_path / 'none.txt'}: run"),
        (ONEPANEL_RUN, refused, "an attempt before this one was refused"),
    ):
        assert "/dev/termination-log" in script
        script = script.replace("/dev/termination-log", str(log))
        done = subprocess.run(["sh", "-c", script, str(zero), "true"], env=environment, capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (2, f"error: {log.read_text()}")
        assert log.read_text().startswith(said)


def test_packages_that_cannot_be_had_may_come_later(tmp_path: Path, environment: dict[str, str]) -> None:
    lock = tmp_path / "lock.txt"
    lock.write_text(f"no-such-package==1 --hash=sha256:{'0' * 64}\n")
    script = install_and_run(str(tmp_path / "packages"))
    done = subprocess.run(["sh", "-c", script, str(lock), "echo", "started"], env=environment, capture_output=True)
    assert (done.returncode, done.stdout) == (75, b"")
    beside = install_and_run_beside(str(tmp_path / "packages"))
    done = subprocess.run(["sh", "-c", beside, str(lock), "echo", "started"], env=environment, capture_output=True)
    assert (done.returncode, done.stdout) == (0, b"")


def test_the_words_of_a_step_reach_it_as_they_are(tmp_path: Path, environment: dict[str, str]) -> None:
    lock = tmp_path / "empty.txt"
    lock.write_text("# nothing\n")
    words = ["a b", "$(id)", "`id`", "'", '"', "", "*"]
    script = install_and_run(str(tmp_path / "packages"))
    inner = ["sh", "-c", script, str(lock), "python", "-c", "import sys; print(sys.argv[1:])", *words]
    for command in (inner, ["sh", "-c", ONEPANEL_RUN, "", *inner]):
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert done.stdout.strip().endswith(str(words)), done.stderr
