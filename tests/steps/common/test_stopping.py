"""SIGTERM ends a step within seconds, whatever it is doing and as process 1 too."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.conftest import write_coco_dump

ROOT = Path(__file__).parents[3]
HEAD = """
import hashlib, time
from concurrent.futures import ThreadPoolExecutor
from steps.common.stopping import end_on_sigterm
end_on_sigterm()
"""
WORK = {
    "in Python": "time.sleep(600)",
    "in a library's code": "hashlib.pbkdf2_hmac('sha512', b'', b'', 2**31 - 1)",
    "waiting for threads": "with ThreadPoolExecutor() as pool: pool.submit(time.sleep, 600).result()",
}


@pytest.mark.parametrize("work", WORK)
def test_whatever_it_is_doing(work: str, tmp_path: Path) -> None:
    code = f"""{HEAD}
try:
    print("ready", flush=True)
    {WORK[work]}
finally:
    print("tidied up", flush=True)
"""
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGTERM)
        said, complaint = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 143
    assert "Traceback" not in complaint
    if work != "in a library's code":
        assert complaint == "stopped by SIGTERM; run the same step again to go on\n"
    if work == "in Python":
        assert said == "tidied up\n"


def test_a_forked_process_keeps_its_signals_to_itself() -> None:
    code = f"""{HEAD}
import multiprocessing, os, signal
child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(600,))
child.start()
os.kill(child.pid, signal.SIGTERM)
child.join()
time.sleep(4)
print(child.exitcode)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "-15\n")


BUSY = {
    "with a dump": """
import steps.prepare
steps.prepare.find_images = lambda *_: wait()
""",
    "with its imports": """
class Slow:
    def find_spec(self, name, *_):
        if name == "steps.cli":
            wait()
sys.meta_path.insert(0, Slow())
""",
}


@pytest.mark.parametrize("busy", BUSY)
def test_as_process_1(busy: str, tmp_path: Path) -> None:
    """As in a container, where the kernel passes a signal over that nobody handles."""
    write_coco_dump(tmp_path / "data", images=4)
    container = ["unshare", "--pid", "--fork", "--kill-child", "--"]
    if shutil.which("unshare") is None or subprocess.run([*container, "true"], capture_output=True).returncode:
        pytest.skip("this machine gives a process no numbers of its own (unshare --pid)")
    code = f"""
import runpy, sys, time
sys.argv = ["steps", "prepare", "--dataset-dir", sys.argv[1]]
def wait():
    print("ready", flush=True)
    time.sleep(600)
{BUSY[busy]}
runpy.run_module("steps", run_name="__main__")
"""
    process = subprocess.Popen(
        [*container, sys.executable, "-c", code, str(tmp_path / "data")],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        while process.stdout.readline() != "ready\n":
            assert process.poll() is None
        (inside,) = psutil.Process(process.pid).children()
        inside.send_signal(signal.SIGTERM)
        _, complaint = process.communicate(timeout=60)
    finally:
        process.kill()
    assert (process.returncode, complaint) == (143, "stopped by SIGTERM; run the same step again to go on\n")
