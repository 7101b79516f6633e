"""The steps as in their pods: not as root, and nothing to write to but the volumes and /tmp."""

import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import write_coco_dump

PROJECT = Path(__file__).parents[2]
AS_USER = "setpriv --reuid 1000 --regid 1000 --clear-groups"
READ_ONLY = """\
set -e
mount --make-rprivate /
mount -t tmpfs tmpfs /mnt
cp -r "$1" /mnt/dump
mkdir /mnt/data /mnt/output
for folder in /mnt/data /mnt/output /tmp; do mount -t tmpfs tmpfs "$folder"; chmod 1777 "$folder"; done
while read -r _ place _; do
  case "$place" in
    /mnt/data | /mnt/output | /tmp | /dev* | /proc* | /sys*) ;;
    *) mount -o remount,bind,ro "$place" 2> /dev/null || true ;;
  esac
done < /proc/self/mounts
for folder in /mnt /var/tmp "$PWD"; do
  if touch "$folder/x" 2> /dev/null; then echo "$folder can be written"; exit 99; fi
done
export HOME=/tmp PYTHONUNBUFFERED=1
"""
TINY = "image_size: 64\nmax_size: 64\nnum_queries: 5"
STEPS = [
    ["fetch", "--annotation-path", "/mnt/dump", "--dataset-dir", "/mnt/data", "--memory", "file:///tmp/bucket/memory"],
    ["prepare", "--dataset-dir", "/mnt/data"],
    ["remember", "--dataset-dir", "/mnt/data"],
    ["train", "--dataset-dir", "/mnt/data", "--output-dir", "/mnt/output", "--model", "detr_tiny", "--epochs", "1",
     "--hyperparameters", TINY],
    ["evaluate", "--dataset-dir", "/mnt/data", "--output-dir", "/mnt/output", "--values-dir", "/tmp/values"],
    ["upload", "--output-dir", "/mnt/output", "--output-path", "file:///tmp/bucket/run"],
    ["promote", "--dataset-dir", "/mnt/data", "--output-dir", "/mnt/output", "--series", "file:///tmp/bucket/cells"],
]  # fmt: skip


def in_a_pod(dump: Path, *commands: list[str]) -> "subprocess.CompletedProcess[str]":
    """Run commands one after the other as pods would, with a dump in `/mnt/dump`."""
    if not shutil.which("unshare") or subprocess.run(["unshare", "--mount", "true"], capture_output=True).returncode:
        pytest.skip("mounting takes root, and unshare")
    if subprocess.run([*AS_USER.split(), sys.executable, "--version"], capture_output=True).returncode:
        pytest.skip(f"another user cannot run {sys.executable}")
    lines = [f"{AS_USER} {shlex.join([sys.executable, *command])}\n" for command in commands]
    script = READ_ONLY + "".join(lines)
    command = ["unshare", "--mount", "sh", "-c", script, "sh", str(dump)]
    return subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=600)


@pytest.mark.slow
def test_the_steps_write_to_the_volumes_and_tmp_only(tmp_path: Path) -> None:
    write_coco_dump(tmp_path / "dump")
    done = in_a_pod(tmp_path / "dump", *(["-m", "steps", *step] for step in STEPS))
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert "the first model of file:" in done.stdout


def test_nothing_else_can_be_written(tmp_path: Path) -> None:
    (tmp_path / "dump").mkdir()
    code = "import os, pathlib; print(os.getuid()); pathlib.Path('/mnt/data/x').touch(); open('/var/tmp/x', 'w')"
    done = in_a_pod(tmp_path / "dump", ["-c", code])
    assert (done.returncode, done.stdout) == (1, "1000\n")
    assert "Read-only file system: '/var/tmp/x'" in done.stderr
