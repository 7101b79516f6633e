from __future__ import annotations

import argparse
import contextlib
import random
import re
import resource
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.trainer.building import build_model
from trainer import checkpoint
from trainer.errors import TrainerError
from trainer.evaluation.detector import load


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


def sound() -> dict[str, Any]:
    model = build_model("detr_tiny", 2)
    return {
        "model": model.state_dict(),
        "family": "detr",
        "model_name": "detr_tiny",
        "spec": dict(model.spec),
        "class_names": ["bolt", "nut"],
        "category_ids": [4, 17],
        "image_size": 64,
        "max_size": 64,
    }


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda c: c["spec"].update(enc_layers=100_000), "enc_layers is 100000"),
        (lambda c: c["spec"].update(num_queries=10**12), "num_queries is 1000000000000"),
        (lambda c: c["spec"].update(dropout=float("nan")), "dropout is nan"),
        (lambda c: c["spec"].pop("num_classes"), "num_classes"),
        (lambda c: c.update(spec=[1, 2]), "spec: Input should be a valid dictionary"),
        (lambda c: c.update(family=None), "family: Input should be a valid string"),
        (lambda c: c.pop("family"), "family"),
        (lambda c: c.update(class_names="ab"), "class_names: Input should be a valid list"),
        (lambda c: c.update(category_ids=[1, 2**70]), "category_ids.1: "),
        (lambda c: c.update(category_ids=[1]), "different lengths"),
        (lambda c: c.update(image_size=10**9), "image_size: Input should be less than"),
        (lambda c: c["model"].update({"class_embed.bias": [1.0]}), "model.class_embed.bias"),
        (lambda c: c["model"].update({"class_embed.bias": torch.zeros(9)}), "does not fit together"),
    ],
)
def test_fields_that_are_not_what_they_should_be(
    tmp_path: Path, change: Callable[[dict[str, Any]], object], words: str
):
    content = sound()
    change(content)
    checkpoint.save(tmp_path / "odd.pth", content)
    with pytest.raises(TrainerError, match=re.escape(words)) as caught:
        load(tmp_path / "odd.pth", "cpu")
    assert str(tmp_path / "odd.pth") in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_torch_thinks_of_a_file_is_not_shown(tmp_path: Path, recwarn: pytest.WarningsRecorder):
    content = sound()
    weight = content["model"]["class_embed.weight"]
    content["model"]["class_embed.weight"] = torch.zeros(weight.shape).to_sparse()
    checkpoint.save(tmp_path / "sparse.pth", content)
    with contextlib.suppress(TrainerError):
        load(tmp_path / "sparse.pth", "cpu")
    assert not recwarn.list


def test_packed_records_are_refused(tmp_path: Path):
    checkpoint.save(tmp_path / "plain.pth", sound())
    with (
        zipfile.ZipFile(tmp_path / "plain.pth") as plain,
        zipfile.ZipFile(tmp_path / "packed.pth", "w", zipfile.ZIP_DEFLATED) as packed,
    ):
        for member in plain.infolist():
            packed.writestr(member.filename, plain.read(member))
    assert load(tmp_path / "plain.pth", "cpu").class_names == ["bolt", "nut"]
    with pytest.raises(TrainerError, match="packed, which torch never writes"):
        load(tmp_path / "packed.pth", "cpu")
