"""Evaluation as a step, of a model that was just trained."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest

from steps.evaluate import evaluate_model
from steps.prepare import prepare_data
from steps.train import train_model
from tests.conftest import write_coco_dump
from tests.steps.refusals import refused

COCO_NAMES = {
    "AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large",
    "AR1", "AR10", "AR100", "AR_small", "AR_medium", "AR_large",
}  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `dataset` and `output` of a run of one epoch."""
    folder = tmp_path_factory.mktemp("trained")
    write_coco_dump(folder / "dataset")
    prepare_data(folder / "dataset")
    settings = "image_size: 64\nmax_size: 64\nnum_queries: 5"
    train_model(folder / "dataset", folder / "output", model="detr_tiny", epochs=1, hyperparameters=settings)
    return folder


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    return shutil.copytree(trained, tmp_path / "run")


def test_leaves_what_it_promises(run: Path) -> None:
    metrics = evaluate_model(
        run / "dataset",
        run / "output",
        metrics_file=str(run / "mlpipeline-metrics.json"),
        values_dir=str(run / "values"),
    )
    assert (run / "values" / "AP50").read_text() == f"{metrics['AP50']:.4f}"
    assert json.loads((run / "output" / "metrics.json").read_text()) == metrics
    assert set(metrics) >= COCO_NAMES
    assert all(metrics[name] == -1 or 0 <= metrics[name] <= 1 for name in COCO_NAMES)
    assert set(metrics["per_class"]) == {"bolt", "nut"}
    assert set(metrics["operating_points"]["per_class"]) == {"bolt", "nut"}
    assert set(metrics["operating_points"]["overall"]) == {"score", "precision", "recall", "f1"}
    page = (run / "output" / "report.html").read_text(encoding="utf-8")
    digest = json.loads((run / "dataset" / "prepare_report.json").read_text())["digest"]
    for name in (metrics["run"], metrics["commit"], digest):
        assert name in page
    val = json.loads((run / "dataset" / "annotations" / "instances_val.json").read_text())
    assert (metrics["images"], metrics["boxes"]) == (len(val["images"]), len(val["annotations"]))

    predictions = json.loads((run / "output" / "predictions.json").read_text())
    assert {box["image_id"] for box in predictions} <= {image["id"] for image in val["images"]}
    assert {box["category_id"] for box in predictions} <= {4, 17}
    assert json.loads((run / "mlpipeline-metrics.json").read_text()) == [
        {"name": name, "value": metrics[name], "format": "%"} for name in ("AP", "AP50")
    ]


def test_another_checkpoint(run: Path) -> None:
    other = (run / "output" / "checkpoints" / "last.pth").rename(run / "other.pth")
    shutil.rmtree(run / "output" / "checkpoints")
    assert evaluate_model(run / "dataset", run / "output", checkpoint=str(other))["checkpoint"] == "other.pth"


def test_the_run_s_own_checkpoint_is_not_evaluated_on_another_split(run: Path) -> None:
    best = run / "output" / "checkpoints" / "best.pth"
    before = evaluate_model(run / "dataset", run / "output")
    trained = json.loads((run / "output" / "train.json").read_text())
    assert before["data"] == {"val": trained["data"]["val"], "trained_on": trained["data"]}
    assert before["checkpoint_sha256"] == hashlib.sha256(best.read_bytes()).hexdigest()
    digest = prepare_data(run / "dataset", seed=1)["digest"]
    kept = (run / "output" / "metrics.json").read_bytes()
    with refused(best, trained["data"]["dataset"][:12], digest[:12], "another output folder", f"--checkpoint {best}"):
        evaluate_model(run / "dataset", run / "output")
    assert (run / "output" / "metrics.json").read_bytes() == kept
    named = evaluate_model(run / "dataset", run / "output", checkpoint=str(best))
    assert named["data"]["trained_on"] == trained["data"]
    assert named["data"]["val"] != trained["data"]["val"]


def test_no_checkpoint(run: Path) -> None:
    shutil.rmtree(run / "output" / "checkpoints")
    with refused(run / "output" / "checkpoints" / "best.pth", "is not there", "train-detr makes it"):
        evaluate_model(run / "dataset", run / "output")


def test_checkpoint_of_another_kind(run: Path) -> None:
    (run / "no.pth").write_bytes(b"<html>please log in</html>")
    with refused(run / "no.pth"):
        evaluate_model(run / "dataset", run / "output", checkpoint=str(run / "no.pth"))


def test_not_prepared(run: Path) -> None:
    for name in ("instances_val.json", "instances_train.json"):
        (run / "dataset" / "annotations" / name).unlink()
        with refused(f"{name} is not there", "prepare-data makes it"):
            evaluate_model(run / "dataset", run / "output")
        prepare_data(run / "dataset")
