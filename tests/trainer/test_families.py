"""Any family goes through training, resume, evaluation and prediction by the interface alone."""

from __future__ import annotations

import json
import os
import signal
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from tests.trainer.toy import TOY, ToyDetector
from trainer import checkpoint
from trainer.config import TrainConfig, config_class
from trainer.errors import TrainerError
from trainer.evaluation.detector import load
from trainer.evaluation.evaluate import evaluate
from trainer.models import registry
from trainer.training import train as training
from trainer.training.loop import run_epochs
from trainer.training.train import train


@pytest.fixture(autouse=True)
def toy(monkeypatch: pytest.MonkeyPatch) -> None:
    """The registry with one more line."""
    monkeypatch.setattr(registry, "_FAMILIES", dict(registry._FAMILIES))
    registry.register(TOY)


def configure(dataset_dir: Path, output_dir: Path, **fields: object) -> TrainConfig:
    return TrainConfig.create(
        {"cells": 3, "ema_decay": 0.9, **fields},
        dataset_dir=dataset_dir,
        output_dir=output_dir,
        model="toy_grid",
        epochs=3,
        batch_size=2,
        device="cpu",
    )


def stop_after(steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Asks the run to stop, as SIGTERM does, when so many steps are done."""
    forward, seen = ToyDetector.forward, [0]

    def count(self: ToyDetector, *arguments: object) -> object:
        seen[0] += self.training
        if seen[0] == steps:
            os.kill(os.getpid(), signal.SIGTERM)
        return forward(self, *arguments)

    monkeypatch.setattr(ToyDetector, "forward", count)


def test_train_resume_evaluate_and_predict(dataset_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    whole = train(configure(dataset_dir, tmp_path / "whole", accumulate=2))
    with monkeypatch.context() as patch:
        stop_after(7, patch)
        with pytest.raises(SystemExit):
            train(configure(dataset_dir, tmp_path / "cut", accumulate=2))
    read, held = training.find_last, []

    def watch(folder: Path) -> Any:
        content = read(folder)
        held.extend(weakref.ref(value) for value in content["weights_of_the_step"].values())
        return content

    def run(*arguments: Any) -> None:
        # What the run was resumed from is not kept in memory beside the run.
        assert held
        assert not [value for value in held if value() is not None]
        run_epochs(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(training, "find_last", watch)
        patch.setattr(training, "run_epochs", run)
        cut = train(configure(dataset_dir, tmp_path / "cut", accumulate=2))
    ours, theirs = (checkpoint.read(result.last_checkpoint) for result in (cut, whole))
    for kind in ("model", "weights_of_the_step"):
        assert all(torch.equal(ours[kind][name], value) for name, value in theirs[kind].items())
    assert (ours["family"], ours["model_name"], ours["spec"]["cells"]) == ("toy", "toy_grid", 3)

    rows = [json.loads(line) for line in whole.log.read_text().splitlines()]
    assert list(rows[0]["train"]) == [*ToyDetector.figures, "grad_norm"]
    assert rows[-1]["train"]["loss"] < rows[0]["train"]["loss"]
    assert set(rows[0]["val"]) > {*ToyDetector.figures, "AP"}
    assert whole.summary["figures"] == list(ToyDetector.figures)

    result = evaluate(dataset_dir, whole.best_checkpoint, device="cpu")
    assert result.metrics["AP"] == pytest.approx(whole.summary["best_AP"], abs=1e-6)
    (found,) = load(whole.best_checkpoint, "cpu").predict([Image.new("RGB", (80, 40))], threshold=0)
    assert found["boxes"].shape == (9, 4)


def test_an_epoch_resumed_with_another_batch_sees_every_image_once(
    dataset_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    seen: list[int] = []
    losses = ToyDetector.losses

    def note(self: ToyDetector, outputs: Any, targets: Any, normalizers: torch.Tensor) -> Any:
        if self.training:
            seen.extend(int(target["image_id"]) for target in targets)
        return losses(self, outputs, targets, normalizers)

    monkeypatch.setattr(ToyDetector, "losses", note)
    with monkeypatch.context() as patch:
        stop_after(2, patch)
        with pytest.raises(SystemExit):
            train(configure(dataset_dir, tmp_path / "run", batch_size=1))
    # As when more processes go on with what fewer began: a step has other images than it had.
    last = tmp_path / "run" / "checkpoints" / "last.pth"
    content = checkpoint.read(last)
    content["config"]["batch_size"] = 4
    checkpoint.save(last, content)
    result = train(configure(dataset_dir, tmp_path / "run", batch_size=4))
    assert [sorted(seen[start : start + 6]) for start in (0, 6, 12)] == [list(range(100, 106))] * 3
    rows = [json.loads(line) for line in result.log.read_text().splitlines()]
    assert [row["images"] for row in rows] == [6, 6, 6]
    assert [row["step"] for row in rows] == [4, 6, 8]


def test_what_decides_about_weights_may_not_change_in_a_run(dataset_dir: Path, tmp_path: Path):
    train(configure(dataset_dir, tmp_path / "run", epochs=1))
    with pytest.raises(TrainerError, match="was trained with cells 3, not 5"):
        train(configure(dataset_dir, tmp_path / "run", cells=5))


def test_a_frozen_part_has_no_gradients_and_still_statistics(dataset_dir: Path, tmp_path: Path):
    result = train(configure(dataset_dir, tmp_path / "run", epochs=1, lr_backbone=0))
    weights = checkpoint.read(result.last_checkpoint)["weights_of_the_step"]
    assert weights["backbone.1.running_mean"].tolist() == [0.0] * 16
    assert weights["backbone.1.weight"].tolist() == [1.0] * 16


def test_settings_of_a_family_share_one_namespace_with_the_run_s():
    assert config_class("toy_grid").model_fields["lr"].default == 1e-3
    with pytest.raises(TrainerError, match="unknown hyperparameter 'cell'; did you mean cells"):
        configure(Path("data"), Path("out"), cell=3)
    with pytest.raises(TrainerError, match="unknown hyperparameter 'num_queries'"):
        configure(Path("data"), Path("out"), num_queries=3)
    for family in registry._FAMILIES.values():
        assert not set(family.settings.model_fields) & set(TrainConfig.model_fields)


def test_a_family_that_is_not_known_is_named():
    with pytest.raises(
        TrainerError, match="unknown model family 'yolo'; this version knows ddq, detr, fasterrcnn, hf, toy"
    ):
        registry.family("yolo")
