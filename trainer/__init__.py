"""DETR (Carion et al. 2020, arXiv 2005.12872) trained and evaluated on a COCO-style dataset.

The package knows files on a disk and nothing else: where they came from is its caller's business.
Names are imported on first use, so `import trainer` and `trainer.TrainConfig` work where torch is absent.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trainer.config import TrainConfig
    from trainer.criterion import SetCriterion
    from trainer.detector import Detector, load
    from trainer.detr import DETR, build_model, post_process
    from trainer.errors import TrainerError
    from trainer.evaluation import EvaluationResult, evaluate
    from trainer.matcher import HungarianMatcher
    from trainer.training import TrainResult, train

_HOME = {
    "DETR": "detr",
    "Detector": "detector",
    "EvaluationResult": "evaluation",
    "HungarianMatcher": "matcher",
    "SetCriterion": "criterion",
    "TrainConfig": "config",
    "TrainResult": "training",
    "TrainerError": "errors",
    "build_model": "detr",
    "evaluate": "evaluation",
    "load": "detector",
    "post_process": "detr",
    "train": "training",
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
