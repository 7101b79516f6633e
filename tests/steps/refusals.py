"""How a step says no."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace

import pytest

from steps.common.errors import StepError


@contextmanager
def refused(*words: object) -> Iterator[SimpleNamespace]:
    """Expect a `StepError` of one line that holds each of `words`; give its `message` once it came."""
    told = SimpleNamespace()
    with pytest.raises(StepError) as caught:
        yield told
    told.message = message = str(caught.value)
    assert len(message.splitlines()) == 1
    for word in words:
        assert str(word) in message
