from __future__ import annotations

import pytest

import trainer


def test_every_exported_name_is_there():
    for name in trainer.__all__:
        assert getattr(trainer, name).__name__ == name
    with pytest.raises(AttributeError, match="fly"):
        _ = trainer.fly
