"""A run killed at a moment that nobody chose goes on to the weights of a run that was never killed."""

from __future__ import annotations

import multiprocessing
import random
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.trainer.drawing import draw_dataset
from trainer import checkpoint
from trainer.config import TrainConfig, parse
from trainer.training.train import train

KILLS = 20


@pytest.fixture(scope="module")
def processes() -> Any:
    """Processes that come with torch imported, and without this one's threads."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["trainer.training.train", "torch.utils.tensorboard"])
    return context


def run(settings: dict[str, Any]) -> None:
    train(parse(settings))


def last(folder: Path) -> dict[str, Any]:
    return checkpoint.read(folder / "checkpoints" / "last.pth")


@pytest.mark.slow
def test_killed_at_random_moments(processes: Any, tmp_path: Path):
    config = TrainConfig.create(
        dataset_dir=draw_dataset(tmp_path / "dataset"),
        output_dir=tmp_path / "whole",
        model="detr_tiny",
        epochs=6,
        batch_size=2,
        image_size=64,
        max_size=64,
        dropout=0.1,
        checkpoint_every=1,
        device="cpu",
    )
    settings = config.model_dump(mode="json", exclude_unset=True)

    def start(folder: Path) -> Any:
        process = processes.Process(target=run, args=({**settings, "output_dir": str(folder)},))
        process.start()
        return process

    start(tmp_path / "warm").join()
    began = time.monotonic()
    start(config.output_dir).join()
    length = time.monotonic() - began
    whole = last(config.output_dir)
    assert whole["epoch"] == config.epochs

    moments = random.Random(0)
    cut_short = 0
    for number in range(KILLS):
        folder = tmp_path / f"killed-{number}"
        process = start(folder)
        process.join(moments.uniform(0.02, 0.98) * length)
        process.kill()
        process.join()
        cut_short += process.exitcode != 0
        process = start(folder)
        process.join()
        assert process.exitcode == 0
        content = last(folder)
        for kind in ("model", "weights_of_the_step"):
            for name, value in whole[kind].items():
                assert torch.equal(content[kind][name], value), f"kill {number}: {kind} {name}"
        assert content["position"]["best_epoch"] == whole["position"]["best_epoch"]
    assert cut_short >= KILLS // 2
