"""The models on offer: a family is a folder and a line here. Needs no torch."""

from __future__ import annotations

from trainer.errors import TrainerError
from trainer.models.detr.settings import DETR
from trainer.models.family import Family, ModelInfo

_FAMILIES: dict[str, Family] = {}


def register(family: Family) -> None:
    """Adds a family, whose models can be named from then on."""
    _FAMILIES[family.name] = family


register(DETR)


def model_names() -> tuple[str, ...]:
    """Every model's name."""
    return tuple(name for family in _FAMILIES.values() for name in family.models)


def family_of(model: str) -> Family:
    """The family that a model belongs to.

    Raises:
        TrainerError: no model has that name.
    """
    for family in _FAMILIES.values():
        if model in family.models:
            return family
    raise TrainerError(f"unknown model '{model}'; it can be {', '.join(model_names())}")


def model_info(model: str) -> ModelInfo:
    """What is known about a model; raises as `family_of` does."""
    return family_of(model).models[model]


def family(name: str) -> Family:
    """A family by its name, as a checkpoint gives it.

    Raises:
        TrainerError: there is no such family.
    """
    if name not in _FAMILIES:
        raise TrainerError(f"unknown model family '{name}'; this version knows {', '.join(_FAMILIES)}")
    return _FAMILIES[name]
