"""`model: auto`: which model it is, and that a run keeps it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from trainer import checkpoint
from trainer.config import TrainConfig
from trainer.errors import TrainerError
from trainer.models.choice import Surroundings, choose_model
from trainer.training.train import train

SMALL = {"dim": 32, "feedforward": 32, "num_queries": 8, "denoising_queries": 8, "image_size": 64, "max_size": 64}


def configure(dataset_dir: Path, output_dir: Path, **fields: object) -> TrainConfig:
    fixed = {"epochs": 1, "batch_size": 3, "device": "cpu", "workers": 0}
    return TrainConfig.create({**fixed, **fields}, dataset_dir=dataset_dir, output_dir=output_dir)


def test_what_it_is_depends_on_the_gpu() -> None:
    assert choose_model(Surroundings(gpu=None)).model == "ddq_lite0"
    choice = choose_model(Surroundings(gpu="NVIDIA T4"))
    assert choice.model == "detr_resnet50"
    assert "NVIDIA T4" in choice.reason


def test_a_run_keeps_the_model_that_was_chosen_for_it(dataset_dir: Path, tmp_path: Path) -> None:
    config = configure(dataset_dir, tmp_path / "run", **SMALL)
    assert config.model == "ddq_lite0"
    summary = train(config).summary
    reason = "there is no CUDA GPU, and it learns from a few hundred images on a CPU"
    assert summary["recipe"][0] == {"field": "model", "value": "ddq_lite0", "reason": reason}

    # As if it had been chosen on another machine, for other reasons.
    path = tmp_path / "run" / "checkpoints" / "last.pth"
    content = checkpoint.read(path)
    content["config"].update(model="detr_resnet50", model_reason="a GPU can train it")
    content.update(spec={"model": "detr_resnet50"}, family="detr")
    torch.save(content, path)
    resumed = configure(dataset_dir, tmp_path / "run")
    assert (resumed.model, resumed.model_reason) == ("detr_resnet50", "a GPU can train it")
    with pytest.raises(TrainerError, match="was trained with model detr_resnet50, not ddq_lite0"):
        train(configure(dataset_dir, tmp_path / "run", model="ddq_lite0", **SMALL))


def test_a_checkpoint_to_start_from_decides(dataset_dir: Path, tmp_path: Path) -> None:
    start = tmp_path / "start.pth"
    checkpoint.save(start, {"family": "fasterrcnn", "spec": {"model": "fasterrcnn_lite0"}, "model": {}})
    config = configure(dataset_dir, tmp_path / "run", pretrained=str(start))
    assert config.model == "fasterrcnn_lite0"
    assert str(start) in config.model_reason
    assert configure(dataset_dir, tmp_path / "run", pretrained=str(start), model="ddq_lite0").model == "ddq_lite0"


def test_nobody_but_the_program_gives_the_reason() -> None:
    with pytest.raises(TrainerError, match="hyperparameter 'model_reason' is set by the program"):
        TrainConfig.create(json.loads('{"model_reason": "mine"}'), dataset_dir="data", output_dir="out")
