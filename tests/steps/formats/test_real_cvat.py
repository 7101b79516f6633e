"""Every dump of a real CVAT server, held against what the server itself says of the task."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.steps.formats.real_cvat import carried, compare, dumps, expected, format_of, refusal_of

ABSENT = pytest.param("", "", marks=pytest.mark.skip("the real dumps are not here: ../shared/data/cvat"))


@pytest.mark.parametrize(("task", "stem"), dumps() or [ABSENT])
def test_boxes_are_the_server_s(tmp_path: Path, task: str, stem: str) -> None:
    comparison = compare(task, stem, tmp_path)
    if reason := refusal_of(task, stem):
        assert reason in comparison.refusal
        return
    assert comparison.refusal == ""
    assert (comparison.missing, comparison.extra) == ([], [])
    assert comparison.matched == sum(map(len, expected(task, format_of(stem)).values())) - len(comparison.covered) > 0


def test_documentation_says_what_each_format_carries() -> None:
    text = (Path(__file__).parents[3] / "docs" / "formats.md").read_text("utf-8")
    assert "\n".join(carried()) in text, "run benchmarks/formats.py"
