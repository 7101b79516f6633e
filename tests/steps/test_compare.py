"""Comparing runs by what they left."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from steps.compare import compare_runs, find_runs
from tests.steps.refusals import refused


def run(folder: Path, name: str, ap: float, **more: Any) -> Path:
    """Write what a run leaves, as far as a comparison reads it."""
    folder.mkdir(parents=True)
    classes = {"nut": {"AP": ap / 2, "AP50": ap}, "<bolt>": {"AP": 0.5, "AP50": 0.6}}
    metrics = {"AP": ap, "AP50": 0.9, "AP75": -1, "per_class": classes, "run": name, "images": 20, "boxes": 50}
    config = {"lr": more.pop("lr", 1e-4), "model": "ddq_lite0", "output_dir": str(folder)}
    trained = {"config": config, "best_epoch": 2, "epochs": 2, "seconds": 90.0}
    rows = [{"epoch": n, "train": {"loss": 9 / n}, "val": {"AP": ap * n / 2, "AP50": 0.4 * n}} for n in (1, 2)]
    (folder / "metrics.json").write_text(json.dumps({**metrics, **more}))
    (folder / "train.json").write_text(json.dumps(trained))
    (folder / "log.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return folder


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    """A sweep's folder, as a run on this machine leaves it."""
    run(tmp_path / "sweep" / "s-1" / "output", "s-1", 0.25)
    run(tmp_path / "sweep" / "s-2" / "output", "s-2", 0.5, lr=3e-4)
    (tmp_path / "sweep" / "data").mkdir()
    return tmp_path / "sweep"


def test_the_table_has_the_best_first_and_what_differs(sweep: Path, tmp_path: Path) -> None:
    columns, rows, warnings = compare_runs([str(sweep)], tmp_path / "page.html", {})
    assert columns == ["run", "lr", "AP", "AP50", "AP75", "best epoch", "epochs", "time"]
    assert [row[:5] for row in rows] == [
        ["s-2", "0.0003", "0.500", "0.900", "\u2013"],
        ["s-1", "0.0001", "0.250", "0.900", "\u2013"],
    ]
    assert warnings == []


def test_the_page_has_curves_and_classes_and_loads_nothing(sweep: Path, tmp_path: Path) -> None:
    compare_runs([str(sweep)], tmp_path / "page.html", {})
    page = (tmp_path / "page.html").read_text()
    assert "<h1>s-2 is the best</h1>" in page
    assert re.findall(r"<h3>(.*?)</h3>", page) == ["AP", "AP50", "Training loss"]
    assert page.count("var(--run-0)") > 3
    assert "&lt;bolt&gt;" in page
    assert "<bolt>" not in page
    assert not re.search(r'(src|href)="https?:', page)
    better = re.search(r"nut</th>(.*?)</tr>", page)
    assert better
    assert re.findall(r'<td class="n( best)?">(?:<[^>]*>)?([^<\s]+)', better[1]) == [(" best", "0.250"), ("", "0.125")]


def test_runs_that_were_measured_on_other_images_are_told(sweep: Path, tmp_path: Path) -> None:
    other = run(tmp_path / "other", "old", 0.7, images=99)
    _, rows, warnings = compare_runs([str(sweep), str(other), str(other)], tmp_path / "page.html", {})
    assert [row[0] for row in rows] == ["old", "s-2", "s-1"]
    assert "not measured on the same validation images" in warnings[0]
    page = (tmp_path / "page.html").read_text()
    assert "not measured on the same" in page
    assert "<h1>3 runs compared</h1>" in page, "none of them is the best"


def test_runs_in_the_bucket_are_found_by_run_and_by_sweep(
    sweep: Path, tmp_path: Path, put: Callable[[str, Path], None], bucket: str
) -> None:
    for number in (1, 2):
        put(f"team/out/s/s-{number}", sweep / f"s-{number}" / "output")
    put("team/out/s/s-data/images", sweep / "s-1")
    assert [each.name for each in find_runs("team/out/s")] == ["s-1", "s-2"]
    (one,) = find_runs(f"s3://{bucket}/team/out/s/s-2/")
    assert (one.place, len(one.log)) == (f"s3://{bucket}/team/out/s/s-2", 2)
    with refused("team/out/none holds no run that was evaluated"):
        find_runs("team/out/none")


def test_a_folder_without_a_run_is_named(tmp_path: Path) -> None:
    with refused(f"{tmp_path} holds no run that was evaluated"):
        find_runs(str(tmp_path))


def test_mlflow_gets_each_run_once(sweep: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow", reason="the extra 'mlflow' is not installed")
    # The small client has no database; the store of files is enough for what is asked of it here.
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    uri = f"file://{tmp_path}/mlflow"
    for _ in range(2):
        compare_runs([str(sweep)], tmp_path / "page.html", {"MLFLOW_TRACKING_URI": uri})
    client = mlflow.MlflowClient(uri)
    experiment = client.get_experiment_by_name("cvat-detr")
    found = client.search_runs([experiment.experiment_id], order_by=["metrics.AP DESC"])
    assert [each.info.run_name for each in found] == ["s-2", "s-1"]
    assert {each.info.status for each in found} == {"FINISHED"}
    assert found[0].data.params["lr"] == "0.0003"
    assert found[0].data.metrics["class_AP/nut"] == 0.25
    assert [each.value for each in client.get_metric_history(found[0].info.run_id, "val/AP")] == [0.25, 0.5]
