"""What the trainer's tests share."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.trainer.drawing import draw_dataset
from trainer.config import TrainConfig


@pytest.fixture
def dataset_dir(tmp_path: Path) -> Path:
    """Six images to train on and three to validate on, 64 px, two classes with ids 4 and 17."""
    return draw_dataset(tmp_path / "dataset")


@pytest.fixture
def config(dataset_dir: Path, tmp_path: Path) -> TrainConfig:
    """Two short epochs of the small model; dropout is on, so that a resume has to restore the generator."""
    return TrainConfig.create(
        dataset_dir=dataset_dir,
        output_dir=tmp_path / "output",
        model="detr_tiny",
        epochs=2,
        batch_size=2,
        image_size=64,
        max_size=64,
        warmup_steps=0,
        dropout=0.1,
        eval_every=1,
        checkpoint_every=1,
        device="cpu",
    )
