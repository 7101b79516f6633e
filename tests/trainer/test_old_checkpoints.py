"""Checkpoints in the layout from before there were families: evaluated, resumed and started from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from trainer import checkpoint
from trainer.config import TrainConfig
from trainer.evaluation.detector import load
from trainer.training.train import train


def to_old_layout(content: dict[str, Any]) -> dict[str, Any]:
    """The same checkpoint as commit 6d83c6a wrote it."""
    old, spec = dict(content), content["spec"]
    for name in ("family", "model_name", "spec"):
        del old[name]
    old["model_config"] = {
        "name": "detr_tiny",
        "num_classes": 2,
        "num_queries": spec["num_queries"],
        "dropout": spec["dropout"],
        "frozen_norm": False,
        "sizes": {"enc_layers": 1},
    }
    return old


@pytest.fixture
def config(config: TrainConfig) -> TrainConfig:
    settings = config.model_dump(exclude_unset=True)
    return TrainConfig.create(**{**settings, "enc_layers": 1, "ema_decay": 0.9})


def test_evaluated_and_started_from(config: TrainConfig, tmp_path: Path):
    result = train(config)
    old = tmp_path / "old" / "checkpoints" / "best.pth"
    checkpoint.save(old, to_old_layout(checkpoint.read(result.best_checkpoint)))
    ours, theirs = load(result.best_checkpoint, "cpu"), load(old, "cpu")
    assert theirs.class_names == ours.class_names
    image = Image.effect_noise((64, 48), 90)
    (found,), (wanted,) = (detector.predict([image], threshold=0) for detector in (theirs, ours))
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)

    settings = config.model_dump(exclude_unset=True)
    changes = {"pretrained": str(tmp_path / "old"), "output_dir": tmp_path / "tuned", "lr": 1e-12, "lr_backbone": 1e-12}
    tuned = train(TrainConfig.create(**{**settings, **changes, "epochs": 1}))
    weights, start = (checkpoint.read(path)["model"] for path in (tuned.last_checkpoint, old))
    assert torch.allclose(weights["class_embed.weight"], start["class_embed.weight"], atol=1e-6)


def test_resumed(config: TrainConfig, tmp_path: Path):
    whole = train(config)
    settings = config.model_dump(exclude_unset=True)
    cut = TrainConfig.create(**{**settings, "output_dir": tmp_path / "cut"})
    last = train(TrainConfig.create(**{**settings, "output_dir": tmp_path / "cut", "epochs": 1})).last_checkpoint
    content = to_old_layout(checkpoint.read(last))
    content["config"]["epochs"] = config.epochs
    checkpoint.save(last, content)
    resumed = train(cut)
    assert [json.loads(line)["epoch"] for line in resumed.log.read_text().splitlines()] == [1, 2]
    ours, theirs = (checkpoint.read(result.last_checkpoint) for result in (resumed, whole))
    assert all(torch.equal(ours["model"][name], value) for name, value in theirs["model"].items())
