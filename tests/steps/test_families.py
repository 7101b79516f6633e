"""Each family of detectors through the steps: prepare, train, resume, evaluate, report, upload, predict."""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from steps.evaluate import evaluate_model
from steps.prepare import prepare_data
from steps.train import train_model
from steps.upload import upload_artifacts
from tests.conftest import write_coco_dump
from tests.steps.refusals import refused
from tests.trainer.models.hf.tiny import save_tiny
from trainer import checkpoint, load

ROOT = Path(__file__).parents[2]
SETTINGS: dict[str, Any] = {
    "image_size": 64,
    "max_size": 64,
    "batch_size": 2,
    "checkpoint_every": 1,
    "device": "cpu",
    "workers": 0,
    "log_seconds": 0.001,
}
FIGURES = {
    "hf": ["loss", "loss_vfl", "loss_bbox", "loss_giou"],
    "ddq": ["loss", "loss_dense_class", "loss_dense_giou", "loss_class", "loss_box", "loss_giou", "loss_denoising"],
    "fasterrcnn": ["loss", "loss_classifier", "loss_box_reg", "loss_objectness", "loss_rpn_box_reg"],
}


def model_of(family: str, folder: Path) -> str:
    """What `--model` takes for a small model of a family, whose weights are put into the folder where it has any."""
    if family != "hf":
        return f"{family}_lite0"
    pytest.importorskip("transformers")
    return f"hf:{save_tiny('d_fine', folder / 'published')}"


def settings(**more: Any) -> str:
    return json.dumps({**SETTINGS, **more})


class _StopInTheMiddle(logging.Handler):
    """Asks this process to stop, as a cluster does, once the training is in its second epoch."""

    def emit(self, record: logging.LogRecord) -> None:
        if "epoch 2/2, step 1/" in record.getMessage():
            os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize("family", ["ddq", "hf", "fasterrcnn"])
def test_a_family_goes_the_whole_way(family: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    dataset_dir, whole, cut = tmp_path / "dataset", tmp_path / "whole", tmp_path / "cut"
    write_coco_dump(dataset_dir)
    prepare_data(dataset_dir)
    model = model_of(family, tmp_path)
    caplog.set_level(logging.INFO, logger="trainer")

    summary = train_model(dataset_dir, whole, model=model, epochs=2, hyperparameters=settings())
    assert summary["model"] == model
    assert summary["figures"] == FIGURES[family]
    log = [json.loads(line) for line in (whole / "log.jsonl").read_text().splitlines()]
    for row in log:
        assert set(FIGURES[family]) <= set(row["train"])
        assert all(row["val"][name] > 0 for name in FIGURES[family][:1])
    content = checkpoint.read(whole / "checkpoints" / "best.pth")
    assert content["family"] == family
    if family == "hf":
        assert content["spec"]["license"] == "apache-2.0"
        assert "license of its weights: apache-2.0" in caplog.text

    # Stopped between two steps and resumed, without what the weights came from.
    handler = _StopInTheMiddle()
    logging.getLogger("trainer").addHandler(handler)
    try:
        with pytest.raises(SystemExit):
            train_model(dataset_dir, cut, model=model, epochs=2, hyperparameters=settings())
    finally:
        logging.getLogger("trainer").removeHandler(handler)
    assert checkpoint.read(cut / "checkpoints" / "last.pth")["position"]["step_in_epoch"] > 0
    shutil.rmtree(tmp_path / "published", ignore_errors=True)
    train_model(dataset_dir, cut, model=model, epochs=2, hyperparameters=settings())
    ours, theirs = (checkpoint.read(run / "checkpoints" / "last.pth")["model"] for run in (cut, whole))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)

    metrics = evaluate_model(dataset_dir, whole)
    assert 0 <= metrics["AP"] <= 1
    assert set(metrics["per_class"]) == {"bolt", "nut"}
    report = (whole / "report.html").read_text(encoding="utf-8")
    assert all(name in report for name in ("<html", "bolt"))
    (tmp_path / "bucket").mkdir()
    keys = upload_artifacts(whole, f"file://{tmp_path}/bucket/run")
    assert any(key.endswith("checkpoints/best.pth") for key in keys)

    detector = load(whole / "checkpoints" / "best.pth", device="cpu")
    pictures = [Image.new("RGB", size, "grey") for size in ((50, 90), (64, 64))]
    for picture, found in zip(pictures, detector.predict(pictures, threshold=0), strict=True):
        assert set(found["labels"].tolist()) <= {0, 1}
        assert (found["boxes"] <= torch.tensor(picture.size).repeat(2)).all()

    tuned = train_model(
        dataset_dir,
        tmp_path / "tuned",
        model=model if family != "hf" else f"hf:{save_tiny('d_fine', tmp_path / 'published')}",
        epochs=1,
        checkpoint=str(whole),
        hyperparameters=settings(lr=1e-12, lr_backbone=0, ema_decay=0),
    )
    assert tuned["epochs"] == 1
    before = checkpoint.read(whole / "checkpoints" / "best.pth")["model"]
    after = checkpoint.read(tmp_path / "tuned" / "checkpoints" / "last.pth")["model"]
    backbone = [name for name in before if "backbone" in name and "fpn" not in name]
    assert backbone
    assert all(torch.equal(before[name], after[name]) for name in backbone)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["ddq", "hf", "fasterrcnn"])
def test_two_processes_share_the_work(family: str, tmp_path: Path) -> None:
    dataset_dir = tmp_path / "dataset"
    # The last images have no object: one process may have none in a step.
    write_coco_dump(dataset_dir, images=8, negatives=4)
    prepare_data(dataset_dir)
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "steps"),
        *("train", "--dataset-dir", str(dataset_dir), "--output-dir", str(tmp_path / "run"), "--epochs", "2"),
        *("--model", model_of(family, tmp_path), "--hyperparameters", settings(precision="bf16")),
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stdout + run.stderr
    summary = json.loads((tmp_path / "run" / "train.json").read_text())
    assert (summary["processes"], summary["precision"], summary["epochs"]) == (2, "bf16", 2)


def test_a_published_model_is_brought_from_the_bucket(
    bucket: str, put: Callable[[str, bytes | Path], None], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for path in Path(model_of("hf", tmp_path).removeprefix("hf:")).iterdir():
        put(f"models/tiny/{path.name}", path)
    write_coco_dump(tmp_path / "dataset")
    prepare_data(tmp_path / "dataset")
    with refused("--model", f"hf:s3://{bucket}/models", "config.json"):
        train_model(tmp_path / "dataset", tmp_path / "output", model=f"hf:s3://{bucket}/models")
    caplog.set_level(logging.INFO)
    summary = train_model(
        tmp_path / "dataset", tmp_path / "output", model=f"hf:s3://{bucket}/models/tiny/", epochs=1,
        hyperparameters=settings(),
    )  # fmt: skip
    assert f"starting from the model s3://{bucket}/models/tiny" in caplog.text
    assert summary["figures"] == FIGURES["hf"]
    put("models/other/config.json", (tmp_path / "published" / "config.json").read_bytes())
    with refused("was trained with model hf:", "tiny-", "not hf:", "other-"):
        train_model(tmp_path / "dataset", tmp_path / "output", model=f"hf:s3://{bucket}/models/other", epochs=1)


@pytest.mark.slow
@pytest.mark.parametrize(("family", "epochs"), [("ddq", 40), ("hf", 150), ("fasterrcnn", 40)])
def test_eight_images_are_learned_by_heart(family: str, epochs: int, tmp_path: Path) -> None:
    dataset_dir = tmp_path / "dataset"
    write_coco_dump(dataset_dir, images=8)
    prepare_data(dataset_dir, val_split=0)
    summary = train_model(
        dataset_dir,
        tmp_path / "run",
        model=model_of(family, tmp_path),
        epochs=epochs,
        hyperparameters=settings(
            batch_size=8,
            augment="none",
            lr=1e-3,
            lr_backbone=1e-3,
            eval_every=20,
            log_seconds=60,
            patience=0,
            checkpoint_every=1000,
        ),
    )
    assert summary["best_AP50"] >= 0.95
