"""The models on offer: a family is a folder and a line here. Needs neither torch nor pydantic."""

from __future__ import annotations

import difflib

from trainer.errors import TrainerError
from trainer.models.ddq.family import DDQ
from trainer.models.detr.family import DETR
from trainer.models.family import Family, ModelInfo
from trainer.models.fasterrcnn.family import FASTERRCNN
from trainer.models.hf.family import HF

_FAMILIES: dict[str, Family] = {}


def register(family: Family) -> None:
    """Adds a family, whose models can be named from then on."""
    _FAMILIES[family.name] = family


for _family in (DDQ, DETR, FASTERRCNN, HF):
    register(_family)


def model_names() -> tuple[str, ...]:
    """The name of every model but those that cannot be listed; see `model_patterns`."""
    return tuple(name for family in _FAMILIES.values() for name in family.models)


def model_patterns() -> tuple[str, ...]:
    """What the names of all other models look like."""
    return tuple(f"{family.prefix}NAME-OR-FOLDER" for family in _FAMILIES.values() if family.prefix is not None)


def family_of(model: str) -> Family:
    """The family that a model belongs to.

    Raises:
        TrainerError: no model has that name; the line says which there are, and the closest.
    """
    for family in _FAMILIES.values():
        if family.info(model) is not None:
            return family
    close = difflib.get_close_matches(model, model_names(), n=1)
    hint = f" (did you mean {close[0]}?)" if close else ""
    known = f"{', '.join(model_names())} or {' or '.join(model_patterns())}"
    raise TrainerError(f"'{model}' is not a model; it can be {known}{hint}")


def model_info(model: str) -> ModelInfo:
    """What is known about a model; raises as `family_of` does."""
    info = family_of(model).info(model)
    assert info is not None
    return info


def family(name: str) -> Family:
    """A family by its name, as a checkpoint gives it.

    Raises:
        TrainerError: there is no such family.
    """
    if name not in _FAMILIES:
        raise TrainerError(f"unknown model family '{name}'; this version knows {', '.join(_FAMILIES)}")
    return _FAMILIES[name]
