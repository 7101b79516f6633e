"""Files that are either whole or not there."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from steps.common.files import parse_yaml, read_json, replacing, write_json
from tests.steps.refusals import refused


def test_success_replaces(tmp_path: Path) -> None:
    target = tmp_path / "new" / "file"
    for content in (b"first", b"second"):
        with replacing(target) as temporary:
            temporary.write_bytes(content)
        assert target.read_bytes() == content
    assert list(target.parent.iterdir()) == [target]


def test_failure_leaves_what_was_there(tmp_path: Path) -> None:
    target = tmp_path / "file"
    target.write_bytes(b"before")
    with pytest.raises(TypeError), replacing(target) as temporary:
        temporary.write_bytes(b"half") and temporary.write_bytes("no bytes")
    assert target.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [target]


def test_json_comes_back(tmp_path: Path) -> None:
    value = {"ü": [1, 2.5, None, True], "of numpy": np.arange(3)}
    for indent in (True, False):
        write_json(tmp_path / "value.json", value, indent=indent)
        assert read_json(tmp_path / "value.json", "a step") == {**value, "of numpy": [0, 1, 2]}


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    path = tmp_path / "value.json"
    with refused(path, "does not exist", "a step makes it, run that first"):
        read_json(path, "a step")
    path.write_text('{"a":\n 1,,}')
    with refused(path, "line 2, column", "run a step again"):
        read_json(path, "a step")
    path.unlink()
    path.mkdir()
    with refused(path, "Is a directory"):
        read_json(path, "a step")


ODD_YAML = [
    "[" * 5000, "a: [", "a: 2020-99-99", "a: !!int ''", "a: !!float ''", "a: !!timestamp x", "a: " + "9" * 5000,
    "a: \0", "a: !!python/name:os.system", "a: !!binary \u00e9", "[a]: {b}: c",
]  # fmt: skip


@pytest.mark.parametrize("text", ODD_YAML)
def test_yaml_that_is_none(text: str) -> None:
    with pytest.raises(ValueError, match=r"\S") as caught:
        parse_yaml(text)
    assert len(str(caught.value).splitlines()) == 1
