"""The workflow that a schedule starts, on this machine, with two processes that train together."""

from pathlib import Path

import pytest

from pipelines.local.sample import draw_sample
from tests.pipelines.command import pipelines


@pytest.mark.slow
def test_two_processes_train_and_the_model_becomes_the_latest(tmp_path: Path) -> None:
    chosen = ["--gpus", "2", "--schedule", "0 3 * * *", "--schedule-dump", "dumps/7/"]
    assert pipelines("compile", "--output", tmp_path, *chosen).returncode == 0
    manifest = tmp_path / "argo" / "detr-training.cronworkflow.yaml"
    dump, runs = draw_sample(tmp_path / "dump", images=10), tmp_path / "runs"
    small = ["model=ddq_lite0", "epochs=1", "batch-size=2", "hyperparameters=image_size: 128\nmax_size: 160"]
    flags = [f"--param={each}" for each in small]
    done = pipelines("run", "--manifest", manifest, "--dump", dump, "--runs", runs, *flags)
    assert done.returncode == 0, done.stdout + done.stderr
    assert '"processes": 2' in (runs / "latest" / "output" / "train.json").read_text()
    assert "the first model of s3://cvat-detr/default/workflow-data/output/detr-training" in done.stdout
