"""The files that the page is made of, read so that nothing odd in them can stop it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from steps.common.errors import StepError
from steps.common.files import parse_json, read_json


@dataclass(frozen=True)
class Thresholds:
    """The score from which a prediction counts as made."""

    others: float
    """For classes that are not in `by_class`."""
    by_class: Mapping[int, float] = field(default_factory=dict)
    """By category id."""

    def of(self, category: int) -> float:
        return self.by_class.get(category, self.others)


def read_object(path: Path, step: str) -> dict[str, Any]:
    """`read_json` of a file that must hold an object."""
    value = read_json(path, f"the {step} step")
    if not isinstance(value, dict):
        raise StepError(f"{path} is not a JSON object: run the {step} step again")
    return value


def read_list(path: Path, step: str) -> list[Any]:
    """`read_json` of a file that must hold a list."""
    value = read_json(path, f"the {step} step")
    if not isinstance(value, list):
        raise StepError(f"{path} is not a list: run the {step} step again")
    return value


def read_optional(path: Path) -> dict[str, Any]:
    """Read a JSON object that the page can do without; a broken one counts as absent."""
    try:
        value = parse_json(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def read_log(path: Path) -> list[dict[str, Any]]:
    """Read the epochs in order. A resumed run repeats epochs: the last line for each counts."""
    try:
        lines = path.read_bytes().splitlines()
    except OSError:
        return []
    epochs: dict[int, dict[str, Any]] = {}
    for line in lines:
        try:
            record = parse_json(line)
        except (ValueError, RecursionError):
            continue  # a pod that was killed while it wrote leaves half a line
        if isinstance(record, dict) and (epoch := number(record.get("epoch"))) is not None:
            epochs[int(epoch)] = record
    return [epochs[key] for key in sorted(epochs)]


def number(value: object) -> float | None:
    """A finite number, or None for anything else (NaN, infinity, text, null, true)."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return None
    return float(value)


def measure(value: object) -> float | None:
    """A metric; COCO's -1 ("nothing of the kind in the set") counts as none."""
    found = number(value)
    return None if found is None or found < 0 else found


def first_number(*values: object) -> float | None:
    """The first that is a number."""
    return next((found for value in values if (found := number(value)) is not None), None)


def within(record: dict[str, Any], *keys: str) -> Any:
    """The value under nested keys, or None as soon as something on the way is not an object."""
    value: Any = record
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def thresholds_of(metrics: dict[str, Any], names: dict[int, str], override: float | None = None) -> Thresholds:
    """The operating points that the evaluation gave; where there are none, 0.5, or whatever the caller wants instead.

    Args:
        metrics: the evaluation's.
        names: classes by category id.
        override: one score for all classes.
    """
    if override is not None:
        return Thresholds(override)
    points = within(metrics, "operating_points")
    points = points if isinstance(points, dict) else {}
    scores = {key: number(within(points, "per_class", name, "score")) for key, name in names.items()}
    return Thresholds(
        first_number(within(points, "overall", "score"), 0.5) or 0.0,
        {key: score for key, score in scores.items() if score is not None},
    )


def rows(value: object) -> Iterable[dict[str, Any]]:
    """The objects in what should be a list of them."""
    return (row for row in value if isinstance(row, dict)) if isinstance(value, list) else ()


def series(log: Sequence[dict[str, Any]], *keys: str) -> list[float | None]:
    """A value of each epoch."""
    return [number(within(record, *keys)) for record in log]


def figures_of(trained: dict[str, Any], log: Sequence[dict[str, Any]]) -> list[str]:
    """Names of the losses and errors that the model reports, as the trainer gives them, or else as they were logged."""
    given = trained.get("figures")
    if isinstance(given, list):
        return [name for name in given if isinstance(name, str)]
    logged = [record["train"] for record in log if isinstance(record.get("train"), dict)]
    return [name for name in (logged[-1] if logged else {}) if name != "grad_norm"]
