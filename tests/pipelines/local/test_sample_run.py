"""What `make run` promises: on images that it did not train on, the detector has learnt."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import orjson
import pytest

pytestmark = pytest.mark.slow
PROJECT = Path(__file__).parents[3]


def run(folder: Path, *flags: str | Path) -> tuple[dict[str, float], str]:
    """Run the workflow; give the metrics and what was printed."""
    command = [sys.executable, "-m", "pipelines", "run", "--runs", str(folder), *map(str, flags)]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return orjson.loads((folder / "latest" / "output" / "metrics.json").read_bytes()), done.stdout


def test_the_sample_is_learnt(tmp_path: Path) -> None:
    metrics, _ = run(tmp_path)
    assert metrics["AP50"] >= 0.9
    train, val = (
        orjson.loads((tmp_path / "latest" / "data" / "annotations" / f"instances_{split}.json").read_bytes())
        for split in ("train", "val")
    )
    assert not {each["file_name"] for each in train["images"]} & {each["file_name"] for each in val["images"]}


def test_a_real_dump_goes_through(tmp_path: Path, shared_dump: Path) -> None:
    metrics, printed = run(tmp_path, "--dump", shared_dump, "--epochs", "1")
    assert set(metrics["per_class"]) == {"Platelets", "RBC", "WBC"}
    bucket = printed.partition("in the bucket")[2]
    assert all(name in bucket for name in ("checkpoints/best.pth", "metrics.json", "report.html", "manifest.json"))
