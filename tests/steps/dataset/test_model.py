"""Images that a dump holds inside of another file, and what may be in their way."""

from __future__ import annotations

from pathlib import Path

import pytest

from steps.dataset.findings import Findings
from steps.dataset.layout import EMBEDDED
from steps.dataset.model import Dataset
from tests.steps.refusals import refused


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    return Dataset(tmp_path, Findings())


@pytest.mark.parametrize("names", [("a.png", "a.png/b.png"), ("a.png/b.png", "a.png")])
def test_an_image_named_as_a_folder_of_another_is_refused(dataset: Dataset, names: tuple[str, str]) -> None:
    dataset.embedded(names[0], b"one")
    with refused(f"an image inside the dump is named '{names[1]}'", "rename one"):
        dataset.embedded(names[1], b"two")


def test_a_file_in_the_place_of_the_folder_is_refused(dataset: Dataset) -> None:
    (dataset.root / EMBEDDED).write_text("mine")
    with refused("an image inside the dump is named 'a.png'", str(dataset.root / EMBEDDED), "rename one"):
        dataset.embedded("a.png", b"one")
    assert (dataset.root / EMBEDDED).read_text() == "mine"
