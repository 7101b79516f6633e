"""Generated hostile input, a case in a process that may hang or fall: dumps in every format, zips, images, checkpoints.

A short form runs with the others, a thousand cases of each kind with `make test-slow`.
"""

from __future__ import annotations

import contextlib
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
from PIL import Image

from steps.formats import TAGS, detect
from tests.steps.formats import test_cvat_layouts as layouts
from tests.steps.formats.dumps import export, tfrecord_dump
from tests.steps.formats.real_cvat import DATA
from tests.steps.mutation import Victim, other_bytes, other_dump, other_value, write_dump
from trainer.data.image_file import FORMATS
from trainer.models.registry import family, family_of

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
    made += [masks(folder / "masks"), backup(folder / "backup")]
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


def masks(folder: Path) -> Path:
    """A dump in CVAT's format Segmentation mask."""
    layouts.paint(folder, "JPEGImages/a.png", "JPEGImages/b.png")
    labels = {"labelmap.txt": "# label:color_rgb:parts:actions\nbackground:0,0,0::\nbolt:9,8,7::\n"}
    layouts.write(folder, {**labels, "ImageSets/Segmentation/train.txt": "a\nb\n"})
    for name in "ab":
        layouts.mask(folder / f"SegmentationClass/{name}.png", {(2, 3, 11, 12): (9, 8, 7)})
        layouts.mask(folder / f"SegmentationObject/{name}.png", {(2, 3, 11, 12): (128, 0, 0)})
    return folder


def backup(folder: Path) -> Path:
    """The backup of a task, with a track."""
    shape = layouts.TestBackup.shape
    track = {"label": "bolt", "shapes": [shape("rectangle", 0, 1, 1, 9, 9), shape("rectangle", 1, 2, 2, 9, 9)]}
    layouts.TestBackup().write(
        folder, shape("ellipse", 0, 20, 20, 30, 30), shape("polygon", 1, 1, 1, 9, 1, 9, 9), tracks=[track]
    )
    return folder


def test_every_reader_is_among_them(dumps: Dumps, tmp_path: Path) -> None:
    for number, files in enumerate(dumps):
        write_dump(tmp_path / str(number), dict(files), tmp_path / "outside")
    assert {detect(tmp_path / str(number)).TAG for number in range(len(dumps))} == {*TAGS}


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


def content_of(name: str) -> Content:
    kind = family_of(name)
    model = family(kind.name).build({"model": name, "num_classes": 2})
    return Content({
        "model": model.state_dict(), "family": kind.name, "model_name": name, "spec": dict(model.spec),
        "class_names": ["bolt", "nut"], "category_ids": [4, 17], "image_size": 64, "max_size": 64,
        "metrics": {"AP": 0.5}, "operating_points": {}, "epoch": 1, "config": {"device": "cpu"},
    })  # fmt: skip


@pytest.fixture(scope="module")
def images() -> Dumps:
    """A picture in each format and mode that CVAT may write, of one frame and of several."""
    made: dict[str, bytes] = {}
    for kind in FORMATS:
        for mode in ("RGB", "L", "RGBA", "CMYK", "P", "I;16", "1", "F"):
            for more in (False, True):
                file, frame = io.BytesIO(), Image.new(mode, (24, 16), 99 if len(mode) < 3 or mode[0] == "I" else None)
                with contextlib.suppress(OSError, ValueError, KeyError):  # Not every format has every mode.
                    frame.save(file, kind, **({"save_all": True, "append_images": [frame] * 3} if more else {}))
                    made[f"{kind} {mode} {more}"] = file.getvalue()
    assert {name.split()[0] for name in made} == {*FORMATS}
    return Dumps([made])


def hostile_image(victim: Victim, images: Dumps, random: Random) -> None:
    content = random.choice([*images[0].values()])
    for _ in range(random.randint(1, 3)):
        content = other_bytes(random, content)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "image.png"
        path.write_bytes(content)
        victim.look(path)


@pytest.fixture(scope="module")
def checkpoint() -> Content:
    return content_of("detr_tiny")


@pytest.fixture(scope="module")
def checkpoints(checkpoint: Content) -> tuple[Content, ...]:
    return checkpoint, content_of("ddq_lite0"), content_of("fasterrcnn_lite0")


def hostile_checkpoint_of_any(victim: Victim, checkpoints: tuple[Content, ...], random: Random) -> None:
    hostile_checkpoint(victim, random.choice(checkpoints), random)


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
def test_images(victim: Victim, images: Dumps, random: Random) -> None:
    hostile_image(victim, images, random)


@given(random=st.randoms())
def test_checkpoints(victim: Victim, checkpoint: Content, random: Random) -> None:
    hostile_checkpoint(victim, checkpoint, random)


test_many_dumps = pytest.mark.slow(examples(given(random=st.randoms())(hostile_dump), LONG))
test_many_zips = pytest.mark.slow(examples(given(random=st.randoms())(hostile_zip), LONG))
test_many_images = pytest.mark.slow(examples(given(random=st.randoms())(hostile_image), LONG))
test_many_checkpoints = pytest.mark.slow(examples(given(random=st.randoms())(hostile_checkpoint_of_any), LONG))
test_dumps, test_zips, test_images, test_checkpoints = (
    examples(test, SHORT) for test in (test_dumps, test_zips, test_images, test_checkpoints)
)
