"""What is known about a family of models without importing torch, or even its settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pydantic import BaseModel

    from trainer.models.interface import DetectionModel


@dataclass(frozen=True)
class ModelInfo:
    """One model on offer."""

    defaults: Mapping[str, Any] = field(default_factory=dict)
    """Settings, of a run and of the family, that differ from the declared defaults."""
    steps: Mapping[str, int] = field(
        default_factory=lambda: {"coco": 6_000, "imagenet": 20_000, "checkpoint": 4_000, "none": 40_000}
    )
    """Optimizer steps that 300 images take, by where the weights come from."""
    small: bool = False
    """Whether the defaults are made for some hundred images, so that rates, augmentation and batch size stay."""
    note: str = ""
    """What someone should know who found that the model detects nothing."""
    gb_per_image: float = 3.5
    """GB of activations in training that an image of 800 px takes in float32."""


@dataclass(frozen=True)
class Family:
    """Models that share their code and their settings."""

    name: str
    settings_class: str
    """Dotted name of the class of `settings`, imported when they are asked for: pydantic takes a tenth of a second."""
    module: str
    """Dotted name of the module with `build(spec)`, imported when a model is built."""
    models: Mapping[str, ModelInfo]
    retired: Mapping[str, ModelInfo] = field(default_factory=dict)
    """Models of earlier versions, which are not on offer any more: their checkpoints can be used and their runs be
    resumed."""
    prefix: str | None = None
    """What the names of models start with that cannot be listed, as there may be any number of them."""
    prefixed: ModelInfo | None = None
    """What is known about each of these."""
    known: Mapping[str, ModelInfo] = field(default_factory=dict)
    """Those of them about which more is known."""
    max_objects: str | None = None
    """The setting that limits how many objects can be found in an image, if one does."""

    @property
    def settings(self) -> type[BaseModel]:
        """Hyperparameters of this family, beside those of `TrainConfig`; their names must differ."""
        module, _, name = self.settings_class.rpartition(".")
        found: type[BaseModel] = getattr(import_module(module), name)
        return found

    def info(self, model: str) -> ModelInfo | None:
        """What is known about a model; None for a model that is not of this family."""
        named = self.prefix is not None and model.startswith(self.prefix) and model != self.prefix
        return {**self.models, **self.retired, **self.known}.get(model, self.prefixed if named else None)

    def new_spec(self, model: str, num_classes: int, settings: Mapping[str, Any]) -> dict[str, Any]:
        """The spec of a model that is to be built for the first time."""
        return {"model": model, "num_classes": num_classes, **settings}

    def build(self, spec: Mapping[str, Any]) -> DetectionModel:
        """A model of a spec, with random weights.

        Raises:
            TrainerError: the settings in it contradict each other.
        """
        built: DetectionModel = import_module(self.module).build(spec)
        return built
