"""Steps as processes of their own that start at once, to be disturbed: killed, stopped, starved of disk."""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import resource
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tests.faults.matrix import chance
from trainer import checkpoint

CONTEXT = multiprocessing.get_context("forkserver")
# What a step imports where it needs it, too: a process then starts in a twentieth of the time.
CONTEXT.set_forkserver_preload(
    [
        *("steps.cli", "steps.report", "trainer.training.train", "trainer.evaluation.evaluate"),
        *("torch.utils.tensorboard", "scipy.optimize", "matplotlib.pyplot", "jinja2"),
    ]
)


@dataclass(frozen=True)
class Done:
    """How a step ended."""

    status: int
    text: str
    """What it said on both streams."""

    @property
    def line(self) -> str:
        """Its one line on what is wrong, without folders; empty where there is none, or more."""
        lines = [line for line in self.text.splitlines() if line.startswith("error: ")]
        if len(lines) != 1 or "Traceback" in self.text:
            return ""
        return re.sub(r"/\S*/", "", lines[0].removeprefix("error: "))

    @property
    def refused(self) -> bool:
        """Whether it ended with one clear line."""
        return self.status in (2, 75) and bool(self.line)

    def __str__(self) -> str:
        return f"status {self.status}: {self.line[:70] or self.text[-2000:]}"


def _main(arguments: list[str], log: str, environment: dict[str, str], largest: int | None) -> None:
    os.environ.update(environment)
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(output, 1)
    os.dup2(output, 2)
    sys.stdout, sys.stderr = os.fdopen(1, "w", buffering=1), os.fdopen(2, "w", buffering=1)
    torch.set_num_threads(1)
    if largest is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest, largest))
    from steps.cli import main

    sys.argv = ["steps", *arguments]
    main()


class Step:
    """One step with its arguments, which runs as often as it is told to."""

    def __init__(self, log: Path, *arguments: object, environment: dict[str, str] | None = None) -> None:
        self._log, self._arguments = log, [str(argument) for argument in arguments]
        self._environment = environment or {}

    def start(self, largest: int | None = None) -> Any:
        """Start it; no file may grow beyond `largest` bytes."""
        # One that is stopped before it begins has said nothing.
        self._log.write_bytes(b"")
        process = CONTEXT.Process(target=_main, args=(self._arguments, str(self._log), self._environment, largest))
        process.start()
        return process

    def end(self, process: Any) -> Done:
        """Wait for it."""
        process.join()
        return Done(process.exitcode, self._log.read_text())

    def run(self, largest: int | None = None) -> Done:
        """Start it and wait for it."""
        return self.end(self.start(largest))

    def interrupted(self, after: float, number: signal.Signals) -> Done:
        """Send it a signal after some seconds, if it is still there."""
        process = self.start()
        process.join(after)
        if process.is_alive():
            os.kill(process.pid, number)
        return self.end(process)


def length(step: Step) -> float:
    """Seconds that a step takes that nothing disturbs."""
    began = time.monotonic()
    done = step.run()
    assert done.status == 0, done
    return time.monotonic() - began


def moments(count: int, seconds: float, what: str) -> list[float]:
    """Moments in the course of some seconds that nobody chose."""
    numbers = chance(what)
    return [numbers.uniform(0.02, 0.98) * seconds for _ in range(count)]


def flip(path: Path, place: float) -> None:
    """Turn one bit of a file, so far into it; in one of annotations, in the first box from there."""
    content = bytearray(path.read_bytes())
    start = int(place * len(content))
    if path.suffix == ".json":
        start = content.index(b'"bbox":[', start) + len(b'"bbox":[')
    content[start] ^= 1
    path.write_bytes(content)


@contextmanager
def gone(path: Path) -> Iterator[None]:
    """Let a file be absent for a while."""
    aside = path.with_name(f"{path.name}.aside")
    path.rename(aside)
    try:
        yield
    finally:
        aside.rename(path)


@contextmanager
def kept(*paths: Path) -> Iterator[None]:
    """Bring files back to what they were, whatever is done to them meanwhile."""
    contents = {path: path.read_bytes() for path in paths}
    try:
        yield
    finally:
        for path, content in contents.items():
            path.write_bytes(content)


@contextmanager
def small_disk(folder: Path, size: int) -> Iterator[bool]:
    """Mount an empty disk of some bytes on a folder; say whether this machine allows it."""
    folder.mkdir(parents=True, exist_ok=True)
    mounted = shutil.which("mount") is not None and not os.system(
        f"mount -t tmpfs -o size={size} tmpfs '{folder}' 2>/dev/null"
    )
    try:
        yield mounted
    finally:
        if mounted:
            os.system(f"umount '{folder}'")


def prepared(folder: Path) -> dict[str, bytes]:
    """What the prepare step made, wherever the folder lies."""
    files = [*(folder / "annotations").glob("instances_*.json"), folder / "prepare_report.json"]
    return {path.name: path.read_bytes().replace(str(folder).encode(), b"") for path in files if path.is_file()}


def trained(folder: Path) -> dict[str, Any]:
    """What a training made, but for the times that it took."""
    found: dict[str, Any] = {}
    for name in ("best", "last"):
        content = checkpoint.read(folder / "checkpoints" / f"{name}.pth")
        for kind in {"model", "weights_of_the_step"} & set(content):
            found |= {f"{name} {kind} {key}": value.numpy().tobytes() for key, value in content[kind].items()}
        found |= {f"{name} {key}": content[key] for key in ("epoch", "metrics", "data", "settings")}
    rows = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    found["log"] = [{key: row[key] for key in ("epoch", "step", "train", "val")} for row in rows]
    summary = json.loads((folder / "train.json").read_text())
    found["summary"] = {key: summary[key] for key in ("epochs", "steps", "best", "classes", "images", "data")}
    return found


def evaluated(folder: Path) -> dict[str, Any]:
    """What an evaluation made, but for the times."""
    metrics = json.loads((folder / "metrics.json").read_text())
    for name in ("seconds", "evaluated", "run"):
        metrics.pop(name)
    return {"metrics": metrics, "predictions": (folder / "predictions.json").read_bytes()}
