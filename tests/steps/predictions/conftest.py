"""A trained model, images, and what the one finds on the others."""

from __future__ import annotations

from pathlib import Path

import pytest

from steps.cvat.boxes import plain_boxes
from tests.cvat_double import drawn_task
from tests.steps.cvat.conftest import run  # noqa: F401 - a fixture
from trainer import load
from trainer.data.images import read_image

Found = dict[str, list[tuple[str, float, list[float]]]]
"""Class, score and corners of the boxes by the image's name."""


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder with eleven images, in two folders: more than a batch."""
    folder = tmp_path / "photos"
    for name, content in drawn_task(images=11).frames.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def found_on(run: Path, folder: Path) -> Found:  # noqa: F811 - pytest's way
    """What a model finds on each image of a folder, one by one, however little it scores."""
    detector = load(run / "checkpoints" / "best.pth")
    found: Found = {}
    for path in sorted(folder.rglob("*.png"), key=str):
        (one,) = detector.predict([read_image(path)], 0)
        named = [(detector.class_names[label], score, box) for label, score, box in plain_boxes(one)]
        found[path.relative_to(folder).as_posix()] = named
    return found
