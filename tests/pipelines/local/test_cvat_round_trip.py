"""Out of a CVAT server, through the whole workflow, and back into it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cvat_double import PASSWORD, USER, CvatDouble, cvat_double, drawn_task
from tests.pipelines.command import pipelines

PROJECT = Path(__file__).parents[3]


@pytest.fixture
def cvat() -> Iterator[CvatDouble]:
    """A server with an annotated task and two that wait."""
    with cvat_double(
        drawn_task(42, 12), drawn_task(43, 5, annotated=False), drawn_task(44, 3, annotated=False)
    ) as server:
        yield server


def who(**more: str) -> dict[str, str]:
    return {**os.environ, "CVAT_USERNAME": USER, "CVAT_PASSWORD": PASSWORD, **more}


@pytest.mark.slow
def test_a_task_becomes_a_model_and_the_model_annotates_another(cvat: CvatDouble, tmp_path: Path) -> None:
    dump = f"{cvat.host}/tasks/42"
    flags = ["--epochs", "1", "--model", "detr_tiny", "--param", "batch-size=4", "--param", "cvat-job-state=completed"]
    cvat.tasks[42].jobs[1]["state"] = "completed"
    # With the sixth box.
    assert pipelines("compile", "--annotate", "--output", tmp_path).returncode == 0
    flags += ["--manifest", str(tmp_path / "argo" / "detr-training.workflow.yaml")]
    flags += ["--param", f"cvat-annotate={cvat.host}/tasks/44"]
    done = pipelines("run", "--dump", dump, *flags, "--runs", tmp_path / "runs", env=who(TMPDIR=str(tmp_path)))
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"task 44 of \S+: \d+ boxes on 3 frames\n✓ annotate", done.stdout)
    assert f"dump: {dump}\n" in done.stdout
    assert "--dump-format says cvat_coco, but the files are CVAT 1.1" in done.stdout
    assert "WARNING: --dump-format" not in done.stdout

    folder = (tmp_path / "runs" / "latest").resolve()
    report = json.loads((folder / "data" / "prepare_report.json").read_bytes())
    assert sum(report["images"][split] for split in ("train", "val")) == 12
    assert sum(report["boxes"][split] for split in ("train", "val")) == len(cvat.tasks[42].boxes())
    assert report["dump"] == dump
    page = (folder / "output" / "report.html").read_text(encoding="utf-8")
    assert f'href="{cvat.host}/tasks/42/jobs/42' in page

    words = ["annotate", "--checkpoint", str(folder / "output"), "--to", f"{cvat.host}/tasks/43", "--threshold", "0"]
    command = [sys.executable, "-m", "steps", *words]
    first = subprocess.run(command, cwd=PROJECT, env=who(), capture_output=True, text=True)
    assert first.returncode == 0, first.stderr
    boxes = cvat.tasks[43].boxes()
    assert {box[0] for box in boxes} == set(range(5))
    assert {box[1] for box in boxes} <= {"bolt", "nut"}
    assert f"{len(boxes)} boxes on 5 frames" in first.stdout
    again = subprocess.run(command, cwd=PROJECT, env=who(), capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    assert cvat.tasks[43].boxes() == boxes


@pytest.mark.parametrize(
    ("dump", "words"),
    [
        ("https://cvat.example.com/models", "does not exist: give --dump"),
        ("https://cvat.example.com/tasks/1,http://other/tasks/2", "two servers"),
    ],
)
def test_a_wrong_address_is_refused_before_anything_starts(dump: str, words: str, tmp_path: Path) -> None:
    assert words in pipelines("run", "--dump", dump, "--runs", tmp_path / "runs").refusal
    assert not (tmp_path / "runs").exists()
