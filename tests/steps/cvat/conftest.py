"""A CVAT server to talk to, and somebody to be there."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import torch

from steps.cvat import export, server
from tests.cvat_double import PASSWORD, USER, CvatDouble, Task, cvat_double, drawn_task, images
from tests.trainer.building import build_model
from trainer import checkpoint
from trainer.data.batch import pad
from trainer.data.transforms import to_tensor


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run's folder, with a small model of random weights that knows nuts and bolts by other ids than the tasks'."""
    torch.manual_seed(1)
    model = build_model("detr_tiny", 2, num_queries=6).eval()
    with torch.no_grad():
        logits = model(*pad([to_tensor(image) for image in images(drawn_task(43))]))["pred_logits"]
        # Random weights take every query for the same class: this makes half of them the other.
        model.class_embed.bias[0] -= (logits[..., 0] - logits[..., 1]).mean()
    folder = tmp_path_factory.mktemp("run")
    content = {
        "model": model.state_dict(), "family": "detr", "spec": model.spec, "class_names": ["nut", "bolt"],
        "category_ids": [4, 17], "image_size": 64, "max_size": 96,
    }  # fmt: skip
    checkpoint.save(folder / "checkpoints" / "best.pth", content)
    return folder


@pytest.fixture
def logged_in(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An environment that knows the double's user and nothing else of CVAT, and little patience."""
    for name in list(os.environ):
        if name.startswith("CVAT_") or name == "PASS":
            monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("CVAT_USERNAME", USER)
    monkeypatch.setenv("CVAT_PASSWORD", PASSWORD)
    monkeypatch.setattr(server, "SECONDS_BETWEEN_TRIES", 0.01)
    monkeypatch.setattr(export, "SECONDS_BETWEEN_QUESTIONS", (0.01, 0.02))


@pytest.fixture
def cvat(logged_in: None) -> Iterator[Any]:
    """Start a server that holds tasks."""
    with ExitStack() as running:

        def start(*tasks: Task, **what: Any) -> CvatDouble:
            return running.enter_context(cvat_double(*tasks, **what))

        yield start
