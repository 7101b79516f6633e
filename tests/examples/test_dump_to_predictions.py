"""The notebook that starts with a dump, as its reader runs it."""

from __future__ import annotations

import zipfile
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

PROJECT = Path(__file__).parents[2]


def test_the_notebook_trains_on_a_drawn_dump_and_shows_predictions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    notebook = nbformat.read(PROJECT / "examples" / "dump_to_predictions.ipynb", as_version=4)
    monkeypatch.delenv("DUMP", raising=False)
    monkeypatch.delenv("PHOTOS", raising=False)
    for name, value in {"IMAGES": "20", "EPOCHS": "2", "PYTHONPATH": str(PROJECT)}.items():
        monkeypatch.setenv(name, value)
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()

    shown = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    assert sum("image/jpeg" in output.get("data", {}) for output in shown) == 6
    assert len(list((tmp_path / "predictions" / "pictures").iterdir())) == 20
    assert len((tmp_path / "predictions" / "predictions.csv").read_text().splitlines()) > 1
    for name in ("cvat_images.zip", "cvat_coco.zip"):
        assert zipfile.ZipFile(tmp_path / "predictions" / name).testzip() is None
