"""The hyperparameters as a table, read from their declarations. Needs no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from trainer.config import NOT_FOR_USERS, TrainConfig, config_class
from trainer.models.registry import family_of, model_info, model_names, model_patterns


@dataclass(frozen=True)
class Hyperparameter:
    """One setting of a model, in words."""

    name: str
    values: str
    """What it can be."""
    default: str
    meaning: str
    family: str
    """Name of the family that it belongs to; empty for a setting of every model."""


def hyperparameters(model: str) -> list[Hyperparameter]:
    """The settings of a model, those of every model first.

    Raises:
        TrainerError: no model has that name.
    """
    kind = config_class(model)
    family = family_of(model)
    properties = kind.model_json_schema()["properties"]
    defaults = kind.model_validate({"dataset_dir": ".", "output_dir": ".", "model": model})
    names = [name for name in TrainConfig.model_fields if name not in (*NOT_FOR_USERS, "model")]
    return [
        Hyperparameter(
            name,
            _values(properties[name]),
            in_yaml(getattr(defaults, name)),
            properties[name].get("description", ""),
            family.name if name in family.settings.model_fields else "",
        )
        for name in [*names, *family.settings.model_fields]
    ]


def own_defaults() -> dict[str, dict[str, str]]:
    """For each model the settings whose default is its own, not the declared one."""
    return {
        model: {name: in_yaml(value) for name, value in model_info(model).defaults.items()}
        for model in (*model_names(), *model_patterns())
    }


def in_yaml(value: Any) -> str:
    """A value as a user writes it; a float in the fewest digits that say as much."""
    if value is None or isinstance(value, bool):
        return {None: "none", True: "true", False: "false"}[value]
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _values(schema: Mapping[str, Any]) -> str:
    """What a field can be, from its JSON schema."""
    if "anyOf" in schema:
        return " or ".join(_values(each) for each in schema["anyOf"])
    if "enum" in schema:
        return ", ".join(map(str, schema["enum"]))
    if "const" in schema:
        return str(schema["const"])
    kind = {"integer": "whole number", "number": "number", "boolean": "true, false", "null": "none"}.get(
        schema["type"], "text"
    )
    bounds = {"minimum": "from", "exclusiveMinimum": "above", "maximum": "to", "exclusiveMaximum": "below"}
    return " ".join([kind, *(f"{word} {in_yaml(schema[key])}" for key, word in bounds.items() if key in schema)])
