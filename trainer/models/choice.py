"""The model to train when none is named (`model: auto`). Needs no torch."""

from __future__ import annotations

from dataclasses import dataclass

AUTO = "auto"


@dataclass(frozen=True)
class Surroundings:
    """What the choice depends on."""

    gpu: str | None
    """Name of the CUDA GPU; None without one."""


@dataclass(frozen=True)
class ModelChoice:
    """A model's name, and why it was chosen."""

    model: str
    reason: str


def choose_model(surroundings: Surroundings) -> ModelChoice:
    """The one place that decides which model `auto` is; see the table in benchmarks/README.md."""
    if surroundings.gpu is None:
        return ModelChoice("ddq_lite0", "there is no CUDA GPU, and it learns from a few hundred images on a CPU")
    # Published: 42.0 AP on COCO (Carion et al. 2020, table 1), and its weights know COCO's classes.
    return ModelChoice("detr_resnet50", f"{surroundings.gpu} can train it, and its weights have seen all of COCO")
