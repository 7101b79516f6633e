"""A series of runs on one dump: unchanged dumps are not trained on again, and the latest model is never a worse one."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from steps.evaluate import evaluate_model
from steps.fetch import fetch_dump
from steps.prepare import prepare_data
from steps.promote import promote_model
from steps.train import train_model
from tests.conftest import write_coco_dump
from tests.steps.refusals import refused

SMALL = "image_size: 64\nmax_size: 64\nnum_queries: 5"
SERIES = "models/cells"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with `dataset` and the `output` of a trained and evaluated run."""
    folder = tmp_path_factory.mktemp("run")
    write_coco_dump(folder / "dump")
    fetch_dump(str(folder / "dump"), folder / "dataset")
    prepare_data(folder / "dataset")
    train_model(folder / "dataset", folder / "output", model="detr_tiny", epochs=1, hyperparameters=SMALL)
    evaluate_model(folder / "dataset", folder / "output")
    return folder


@pytest.fixture
def output_dir(run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(run / "output", tmp_path / "output"))


def scored(output_dir: Path, ap: float) -> Path:
    """The run, as if its model had reached that AP."""
    metrics = json.loads((output_dir / "metrics.json").read_text())
    (output_dir / "metrics.json").write_text(json.dumps({**metrics, "AP": ap, "marked": ap}))
    return output_dir


def latest(client: Any, bucket: str, name: str) -> Any:
    return json.loads(client.get_object(Bucket=bucket, Key=f"{SERIES}/{name}")["Body"].read())


def test_a_model_is_replaced_by_one_that_is_no_worse(run: Path, output_dir: Path, s3_client: Any, bucket: str) -> None:
    dataset_dir = run / "dataset"
    reached = json.loads((output_dir / "metrics.json").read_text())["AP"]
    assert promote_model(dataset_dir, scored(output_dir, reached), SERIES, run="first")
    assert promote_model(dataset_dir, scored(output_dir, reached + 0.5), SERIES, run="second")
    assert latest(s3_client, bucket, "latest/metrics.json")["marked"] == reached + 0.5
    assert not promote_model(dataset_dir, scored(output_dir, -1), SERIES, run="third")
    assert latest(s3_client, bucket, "latest/metrics.json")["marked"] == reached + 0.5
    last = latest(s3_client, bucket, "last_run.json")
    assert (last["run"], last["promoted"]) == ("third", False)


class TestFetch:
    """What is known from the last run of a series ends the next one early."""

    def test_unchanged(
        self, bucket: str, put: Callable[[str, Any], None], output_dir: Path, run: Path, tmp_path: Path
    ) -> None:
        for path in (run / "dump").rglob("*"):
            if path.is_file():
                put(f"dumps/1/{path.relative_to(run / 'dump').as_posix()}", path)

        def fetch(name: str) -> str:
            said = tmp_path / f"{name}.changed"
            fetch_dump("dumps/1", tmp_path / name, series=SERIES, changed_file=str(said))
            return said.read_text()

        assert fetch("first") == "true"
        prepare_data(tmp_path / "first")
        promote_model(tmp_path / "first", output_dir, SERIES, run="first")
        assert fetch("second") == "false"
        assert not (tmp_path / "second" / "images").exists()
        put("dumps/1/images/one-more.png", b"another")
        assert fetch("third") == "true"

    def test_what_lies_there_is_something_else(
        self, bucket: str, put: Callable[[str, bytes], None], run: Path, tmp_path: Path
    ) -> None:
        put(f"{SERIES}/last_run.json", b"[]")
        with refused("last_run.json is not what a run leaves there: remove it"):
            fetch_dump(str(run / "dump"), tmp_path / "data", series=SERIES)
