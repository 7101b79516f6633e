"""The table of steps and faults: what each cell came to, printed at the end of a run of the tests."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from typing import Any

import pytest

STEPS = ("fetch", "prepare", "train", "evaluate", "upload")
FAULTS = (
    "kill -9", "SIGTERM", "full disk", "503 for 5 s", "503 for 40 s", "reset", "cut", "one flipped bit, small",
    "one flipped bit, multipart", "slow", "silent", "expired credentials", "vanished", "changed", "two at once",
    "changed settings",
)  # fmt: skip
"""What happens to each step. Cells beside these are variations."""
NETWORK = ("503 for 5 s", "503 for 40 s", "reset", "cut", "slow", "silent", "expired credentials")
PARTS = "one flipped bit, multipart"
ABSENT = {
    **{(fault, step): "asks no network" for fault in NETWORK for step in ("prepare", "evaluate")},
    **{(PARTS, step): "what it reads has no parts" for step in ("prepare", "evaluate")},
}
"""Cells that cannot be, and why."""
SEED = int(os.environ.setdefault("FAULTS_SEED", str(random.SystemRandom().randrange(10**6))))
"""Of the moments that nobody chose; in the environment, for the processes that share the tests."""
_CELL = "cell of the matrix of faults"

Record = Callable[[str, str, str, bool], None]
"""Notes step, fault, what came of it in a few words, and whether that is right; a wrong one fails the test."""


@pytest.fixture
def record(request: pytest.FixtureRequest) -> Record:
    """A function that fills a cell of the matrix."""

    def note(step: str, fault: str, outcome: str, ok: bool) -> None:
        # Properties of a test reach the process that prints from those that test.
        request.node.user_properties.append((_CELL, (step, fault, outcome, bool(ok))))
        assert ok, f"{step}, {fault}: {outcome}"

    return note


def chance(what: str) -> random.Random:
    """Give random numbers that follow from the seed and the name of what they are for."""
    return random.Random(f"{SEED} {what}")


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print the table; a cell that was tried several times counts each outcome, and a bad one stands out."""
    cells: dict[tuple[str, str], dict[tuple[str, bool], int]] = {}
    for reports in terminalreporter.stats.values():
        for report in reports:
            if getattr(report, "when", "") != "call":
                continue
            for name, value in report.user_properties:
                if name == _CELL:
                    step, fault, outcome, ok = value
                    outcomes = cells.setdefault((fault, step), {})
                    outcomes[outcome, ok] = outcomes.get((outcome, ok), 0) + 1
    if not cells:
        return
    write = terminalreporter.write_line
    terminalreporter.section("what becomes of faults")
    write(f"moments by FAULTS_SEED={SEED}, which repeats them")
    # Where the slow tests ran, every cell is accounted for.
    whole = terminalreporter.config.option.markexpr.startswith("slow")
    for fault in [*FAULTS, *sorted({fault for fault, _ in cells} - {*FAULTS})]:
        lines = []
        for step in STEPS:
            for (outcome, ok), count in cells.get((fault, step), {}).items():
                times = f" ({count} times)" if count > 1 else ""
                lines.append(f"  {'ok ' if ok else 'BAD'} {step:<9} {outcome}{times}")
            if whole and fault in FAULTS and (fault, step) not in cells:
                lines.append(f"  -   {step:<9} {ABSENT.get((fault, step), 'MISSING')}")
        for line in [fault, *lines] if lines else []:
            write(line)
