"""The table of faults: what became of each step under each of them.

A test calls `record(step, fault, outcome, ok)` (the fixture of `conftest.py`) once a cell; pytest prints the table at
the end of the run, and a bad cell fails its test.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

Record = Callable[[str, str, str, bool], None]
PROPERTY = "fault"


def table(reports: Iterable[Any]) -> list[str]:
    """Give the lines of the table from pytest's reports, which carry the cells through its worker processes."""
    cells = sorted({tuple(cell) for report in reports for name, cell in report.user_properties if name == PROPERTY})
    if not cells:
        return []
    widths = [max(len(cell[column]) for cell in cells) for column in range(2)]
    return [
        f"{step:{widths[0]}}  {fault:{widths[1]}}  {'ok ' if ok else 'BAD'}  {outcome}"
        for step, fault, outcome, ok in cells
    ]
