from __future__ import annotations

import argparse
import contextlib
import random
import resource
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


def test_a_flipped_bit_or_a_hole_gives_no_other_content(tmp_path: Path):
    path = tmp_path / "best.pth"
    checkpoint.save(path, {"model": {"w": torch.arange(3000.0), "n": torch.ones(3)}, "names": ["a"], "epoch": 2})
    whole, wanted = path.read_bytes(), checkpoint.read(path)
    chance = random.Random(0)
    # Any bit of the first and last bytes, where the archive says what lies where, and of some in between.
    places = [*range(200), *range(len(whole) - 300, len(whole)), *(chance.randrange(len(whole)) for _ in range(200))]
    refused = 0
    for place in places:
        content = bytearray(whole)
        content[place] ^= 1 << chance.randrange(8)
        path.write_bytes(content)
        found = None
        with contextlib.suppress(TrainerError):
            found = checkpoint.read(path)
        if found is None:
            refused += 1
        else:
            assert all(torch.equal(found["model"][name], value) for name, value in wanted["model"].items()), place
            assert {**found, "model": 0} == {**wanted, "model": 0}
    assert refused > len(places) // 2
    path.write_bytes(whole[:8000] + bytes(4096) + whole[8000 + 4096 :])
    with pytest.raises(TrainerError, match=r"best\.pth cannot be read \(it is damaged"):
        checkpoint.read(path)


def test_a_disk_that_is_full_leaves_the_old_file_and_is_one_line(tmp_path: Path):
    path = tmp_path / "last.pth"
    checkpoint.save(path, {"epoch": 1})
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(TrainerError, match=r"last\.pth cannot be written \(File too large\); once it can"):
            checkpoint.save(path, {"model": torch.zeros(100_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert checkpoint.read(path) == {"epoch": 1}
    assert [file.name for file in tmp_path.iterdir()] == ["last.pth"]


@pytest.mark.parametrize("content", [b"", b"half a file"])
def test_a_missing_or_damaged_file_is_named_in_one_line(tmp_path: Path, content: bytes):
    with pytest.raises(TrainerError, match=r"no\.pth does not exist"):
        checkpoint.read(tmp_path / "no.pth")
    (tmp_path / "bad.pth").write_bytes(content)
    with pytest.raises(TrainerError, match=r"bad\.pth cannot be read") as caught:
        checkpoint.read(tmp_path / "bad.pth")
    assert "\n" not in str(caught.value)
