"""DETR (Carion et al. 2020, arXiv 2005.12872) trained and evaluated on a COCO-style dataset.

The package knows files on a disk and nothing else: where they came from is its caller's business.
Names are imported on first use, so `import trainer` and `trainer.TrainConfig` work where torch is absent.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trainer.config import TrainConfig
    from trainer.errors import TrainerError
    from trainer.evaluation.detector import Detector, load
    from trainer.evaluation.evaluate import EvaluationResult, evaluate
    from trainer.models.detr.criterion import SetCriterion
    from trainer.models.detr.matcher import HungarianMatcher
    from trainer.models.detr.model import DETR, build_model, post_process
    from trainer.training.train import TrainResult, train

_HOME = {
    "DETR": "models.detr.model",
    "Detector": "evaluation.detector",
    "EvaluationResult": "evaluation.evaluate",
    "HungarianMatcher": "models.detr.matcher",
    "SetCriterion": "models.detr.criterion",
    "TrainConfig": "config",
    "TrainResult": "training.train",
    "TrainerError": "errors",
    "build_model": "models.detr.model",
    "evaluate": "evaluation.evaluate",
    "load": "evaluation.detector",
    "post_process": "models.detr.model",
    "train": "training.train",
}

__all__ = [
    "DETR",
    "Detector",
    "EvaluationResult",
    "HungarianMatcher",
    "SetCriterion",
    "TrainConfig",
    "TrainResult",
    "TrainerError",
    "build_model",
    "evaluate",
    "load",
    "post_process",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'trainer' has no attribute {name!r}")
    return getattr(import_module(f"trainer.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
