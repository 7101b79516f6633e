"""The table of steps and faults: what each cell came to, printed at the end of a run of the tests."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

STEPS = ("fetch", "prepare", "train", "evaluate", "upload")
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
    terminalreporter.section("what becomes of faults")
    for fault in sorted({fault for fault, _ in cells}):
        terminalreporter.write_line(fault)
        for step in STEPS:
            for (outcome, ok), count in cells.get((fault, step), {}).items():
                times = f" ({count} times)" if count > 1 else ""
                terminalreporter.write_line(f"  {'ok ' if ok else 'BAD'} {step:<9} {outcome}{times}")
