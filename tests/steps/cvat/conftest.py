"""A CVAT server to talk to, and somebody to be there."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from steps.cvat import export, server
from tests.cvat_double import PASSWORD, USER, CvatDouble, Task, cvat_double


@pytest.fixture
def logged_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment that knows the double's user and nothing else of CVAT, and little patience."""
    for name in list(os.environ):
        if name.startswith("CVAT_") or name == "PASS":
            monkeypatch.delenv(name)
    monkeypatch.setenv("CVAT_USERNAME", USER)
    monkeypatch.setenv("CVAT_PASSWORD", PASSWORD)
    monkeypatch.setattr(server, "SECONDS_BETWEEN_TRIES", 0.01)
    monkeypatch.setattr(export, "SECONDS_BETWEEN_QUESTIONS", (0.01, 0.02))


@pytest.fixture
def cvat(logged_in: None) -> Iterator[Any]:
    """Start a server that holds tasks."""
    with ExitStack() as running:

        def start(*tasks: Task, **what: Any) -> CvatDouble:
            return running.enter_context(cvat_double(*tasks, **what))

        yield start
