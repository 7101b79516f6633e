from __future__ import annotations

import argparse
from pathlib import Path

import pytest
import torch

from trainer import checkpoint
from trainer.errors import TrainerError


def test_what_is_saved_is_read_and_nothing_else_lies_around(tmp_path: Path):
    path = tmp_path / "deep" / "last.pth"
    for value in (1, 2):
        checkpoint.save(path, {"model": {"w": torch.full((3,), float(value))}, "names": ["a"], "epoch": value})
    content = checkpoint.read(path)
    assert content["model"]["w"].tolist() == [2, 2, 2]
    assert (content["names"], content["epoch"]) == (["a"], 2)
    assert [file.name for file in path.parent.iterdir()] == ["last.pth"]


def test_a_failed_write_leaves_the_old_file(tmp_path: Path):
    path = tmp_path / "last.pth"
    checkpoint.save(path, {"epoch": 1})
    with pytest.raises(Exception, match="pickle"):
        checkpoint.save(path, {"epoch": lambda: None})
    assert checkpoint.read(path) == {"epoch": 1}
    assert [file.name for file in tmp_path.iterdir()] == ["last.pth"]


class Malicious:
    def __reduce__(self):
        return (Path.touch, (Path("pwned"),))


def test_a_file_with_code_in_it_is_refused(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"model": Malicious()}, tmp_path / "evil.pth")
    with pytest.raises(TrainerError, match=r"evil\.pth cannot be read"):
        checkpoint.read(tmp_path / "evil.pth")
    assert not (tmp_path / "pwned").exists()


def test_the_command_line_in_the_authors_checkpoints_is_allowed(tmp_path: Path):
    torch.save({"model": {}, "args": argparse.Namespace(lr=1e-4)}, tmp_path / "official.pth")
    assert checkpoint.read(tmp_path / "official.pth")["args"].lr == 1e-4


@pytest.mark.parametrize("content", [b"", b"half a file"])
def test_a_missing_or_damaged_file_is_named_in_one_line(tmp_path: Path, content: bytes):
    with pytest.raises(TrainerError, match=r"no\.pth does not exist"):
        checkpoint.read(tmp_path / "no.pth")
    (tmp_path / "bad.pth").write_bytes(content)
    with pytest.raises(TrainerError, match=r"bad\.pth cannot be read") as caught:
        checkpoint.read(tmp_path / "bad.pth")
    assert "\n" not in str(caught.value)
