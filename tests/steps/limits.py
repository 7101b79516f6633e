"""A step in a process of its own, with the kernel watching over what `steps.common.budgets` promises."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

CPU_SECONDS, BYTES = 10, 1_000_000_000
PROJECT = Path(__file__).parents[2]


def run_within_limits(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run a step; it is killed when it takes more than 10 s of CPU, and gets no more than 1 GB of memory."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
        resource.setrlimit(resource.RLIMIT_DATA, (BYTES, BYTES))

    return subprocess.run(
        [sys.executable, "-m", "steps", *map(str, arguments)],
        cwd=PROJECT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        preexec_fn=limit,
        capture_output=True,
        text=True,
        timeout=300,
    )


def assert_one_line(done: subprocess.CompletedProcess[str]) -> None:
    """It ended well, or with one line that is no traceback."""
    assert done.returncode in (0, 2), f"{done.returncode}: {done.stderr[-2000:]}"
    assert len(done.stderr.splitlines()) == (1 if done.returncode else 0), done.stderr[-2000:]
    # On a larger machine it would have taken more.
    assert "memory" not in done.stderr.lower()
