"""The notebook for a CVAT server, as its reader runs it."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from tests.cvat_double import PASSWORD, USER, cvat_double, drawn_task

PROJECT = Path(__file__).parents[2]


@pytest.mark.slow
def test_the_notebook_trains_on_one_task_and_annotates_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    notebook = nbformat.read(PROJECT / "examples" / "cvat_server.ipynb", as_version=4)
    with cvat_double(drawn_task(42, 24), drawn_task(43, 4, annotated=False)) as server:
        environment = {
            "CVAT_HOST": server.host,
            "CVAT_TASK": "42",
            "CVAT_NEXT_TASK": "43",
            "CVAT_USERNAME": USER,
            "CVAT_PASSWORD": PASSWORD,
            "EPOCHS": "3",
            "PYTHONPATH": str(PROJECT),
        }
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
        assert server.tasks[43].boxes()
        assert {box[3] for box in server.tasks[43].boxes()} == {"auto"}
    shown = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    assert any(f"{server.host}/tasks/42/jobs/42" in str(output.get("data", "")) for output in shown)
