"""Generated hostile input, a case in a process that may hang or fall: dumps in every format, zips and checkpoints.

A short form runs with the others, a thousand cases of each kind with `make test-slow`.
"""

from __future__ import annotations

import io
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.steps.formats.dumps import export, tfrecord_dump
from tests.steps.formats.real_cvat import DATA
from tests.steps.mutation import Victim, other_bytes, other_dump, other_value, write_dump
from tests.trainer.building import build_model

EXPORTERS = ("coco", "datumaro", "cvat", "voc", "label_me", "yolo", "mot_seq_gt", "open_images", "kitti")
SHORT, LONG = 40, 1_000


def examples(test: Any, count: int) -> Any:
    checks = [
        HealthCheck.function_scoped_fixture,
        HealthCheck.too_slow,
        HealthCheck.data_too_large,
        HealthCheck.large_base_example,
    ]
    return settings(max_examples=count, deadline=None, database=None, derandomize=True, suppress_health_check=checks)(
        test
    )


class Dumps(list[dict[str, bytes]]):
    """Files by name of each dump."""

    def __repr__(self) -> str:
        return f"{len(self)} dumps"


class Content(dict[str, Any]):
    """What a checkpoint holds."""

    def __repr__(self) -> str:
        return "a checkpoint"


@pytest.fixture(scope="module")
def victim() -> Iterator[Victim]:
    victim = Victim()
    yield victim
    victim.end()


@pytest.fixture(scope="module")
def dumps(tmp_path_factory: pytest.TempPathFactory) -> Dumps:
    """Files by name of small dumps that datumaro writes, and of a real server's where they are."""
    folder = tmp_path_factory.mktemp("dumps")
    made = [export(folder / name, name) for name in EXPORTERS] + [tfrecord_dump(folder / "tfrecord")]
    found = [
        {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}
        for root in made
    ]
    for path in sorted(DATA.glob("*/*.zip")):
        with zipfile.ZipFile(path) as zipped:
            if sum(member.file_size for member in zipped.infolist()) < 300_000:
                found.append(
                    {member.filename: zipped.read(member) for member in zipped.infolist() if not member.is_dir()}
                )
    return Dumps(found)


def hostile_dump(victim: Victim, dumps: Dumps, random: Random) -> None:
    files = other_dump(random, random.choice(dumps))
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "dataset"
        root.mkdir()
        write_dump(root, files, Path(folder) / "outside")
        victim.step("prepare", "--dataset-dir", root, "--max-lost", 100, outside=Path(folder) / "outside")


def hostile_zip(victim: Victim, dumps: Dumps, random: Random) -> None:
    file = io.BytesIO()
    kinds = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)
    with zipfile.ZipFile(file, "w", random.choice(kinds)) as zipped:
        for name, content in list(random.choice(dumps).items())[:4]:
            zipped.writestr(name, content)
    content = file.getvalue()
    # The directory is at the end, and most of what can go wrong is in it.
    border = content.index(b"PK\1\2") if random.random() < 0.7 else 0
    content = content[:border] + other_bytes(random, content[border:])
    with tempfile.TemporaryDirectory() as folder:
        archive = Path(folder) / "dump.zip"
        archive.write_bytes(content)
        (Path(folder) / "outside").mkdir()
        victim.step(
            "fetch",
            "--annotation-path",
            archive,
            "--dataset-dir",
            Path(folder) / "dataset",
            outside=Path(folder) / "outside",
        )


@pytest.fixture(scope="module")
def checkpoint() -> Content:
    model = build_model("detr_tiny", 2)
    return Content({
        "model": model.state_dict(), "family": "detr", "model_name": "detr_tiny", "spec": dict(model.spec),
        "class_names": ["bolt", "nut"], "category_ids": [4, 17], "image_size": 64, "max_size": 64,
        "metrics": {"AP": 0.5}, "operating_points": {}, "epoch": 1, "config": {"device": "cpu"},
    })  # fmt: skip


def hostile_checkpoint(victim: Victim, checkpoint: Content, random: Random) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "best.pth"
        field = random.choice([*checkpoint, "spec", "spec", "model"])
        changed = {**checkpoint, field: other_value(random, checkpoint[field])}
        torch.save(changed, path)
        if random.random() < 0.3:
            _repacked(path, random)
        victim.load(path)


def _repacked(path: Path, random: Random) -> None:
    """Change the pickle inside, and give it a sum that is right."""
    with zipfile.ZipFile(path) as zipped:
        members = {member.filename: zipped.read(member) for member in zipped.infolist()}
    name = next(name for name in members if name.endswith("data.pkl"))
    members[name] = other_bytes(random, members[name])
    with zipfile.ZipFile(path, "w") as zipped:
        for member, content in members.items():
            zipped.writestr(member, content)


@given(random=st.randoms())
def test_dumps(victim: Victim, dumps: Dumps, random: Random) -> None:
    hostile_dump(victim, dumps, random)


@given(random=st.randoms())
def test_zips(victim: Victim, dumps: Dumps, random: Random) -> None:
    hostile_zip(victim, dumps, random)


@given(random=st.randoms())
def test_checkpoints(victim: Victim, checkpoint: Content, random: Random) -> None:
    hostile_checkpoint(victim, checkpoint, random)


test_many_dumps = pytest.mark.slow(examples(given(random=st.randoms())(hostile_dump), LONG))
test_many_zips = pytest.mark.slow(examples(given(random=st.randoms())(hostile_zip), LONG))
test_many_checkpoints = pytest.mark.slow(examples(given(random=st.randoms())(hostile_checkpoint), LONG))
test_dumps, test_zips, test_checkpoints = (examples(test, SHORT) for test in (test_dumps, test_zips, test_checkpoints))
