"""Detectors trained and evaluated on a COCO-style dataset: DETR (Carion et al. 2020), and others beside it.

The package knows files on a disk and nothing else: where they came from is its caller's business.
Names are imported on first use, so `import trainer` and `trainer.TrainConfig` work where torch is absent.
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trainer.config import TrainConfig
    from trainer.errors import TrainerError
    from trainer.evaluation.detector import Detector, load
    from trainer.evaluation.evaluate import EvaluationResult, evaluate
    from trainer.training.train import TrainResult, train

# Threads that wait for one another sleep rather than spin: beside other work, two spinning ones make a step take five
# times as long. OpenMP reads it once, when torch is imported, which this package does after this line.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

_HOME = {
    "Detector": "evaluation.detector",
    "EvaluationResult": "evaluation.evaluate",
    "TrainConfig": "config",
    "TrainResult": "training.train",
    "TrainerError": "errors",
    "evaluate": "evaluation.evaluate",
    "load": "evaluation.detector",
    "train": "training.train",
}

__all__ = [
    "Detector",
    "EvaluationResult",
    "TrainConfig",
    "TrainResult",
    "TrainerError",
    "evaluate",
    "load",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'trainer' has no attribute {name!r}")
    return getattr(import_module(f"trainer.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
