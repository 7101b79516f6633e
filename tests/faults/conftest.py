"""What the tests of faults share."""

from __future__ import annotations

import pytest

from tests.faults.matrix import PROPERTY, Record


@pytest.fixture
def record(request: pytest.FixtureRequest) -> Record:
    """Note a cell of the table; a bad one fails the test."""

    def record(step: str, fault: str, outcome: str, ok: bool) -> None:
        request.node.user_properties.append((PROPERTY, (step, fault, outcome, ok)))
        assert ok, f"{step} under {fault}: {outcome}"

    return record
