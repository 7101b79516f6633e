"""Runs side by side: a table, and a page that compares them, one file with everything inside."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from steps.common.files import replacing
from steps.report.charts import comparison_chart
from steps.report.formats import DASH, duration, shown
from steps.report.reading import measure, number, series, within
from steps.report.render import render
from steps.report.tables import settings_table

NOT_SETTINGS = {"dataset_dir", "output_dir", "images_root", "model_reason"}
"""Fields of a configuration that say nothing about what a run does."""


@dataclass(frozen=True)
class RunResult:
    """What a run left."""

    name: str
    place: str
    """Its folder or address."""
    metrics: dict[str, Any]
    trained: dict[str, Any]
    log: list[dict[str, Any]]

    @property
    def settings(self) -> dict[str, str]:
        """The configuration that it was trained with."""
        return {name: value for name, value in settings_table(self.trained) if name not in NOT_SETTINGS}


def differing(runs: Sequence[RunResult]) -> dict[str, list[str]]:
    """Return the settings that the runs do not agree on, each with its values in the runs' order."""
    settings = [run.settings for run in runs]
    names = dict.fromkeys(name for each in settings for name in each)
    values = {name: [each.get(name, DASH) for each in settings] for name in names}
    return {name: each for name, each in values.items() if len(set(each)) > 1}


def by_ap(runs: Sequence[RunResult]) -> list[RunResult]:
    """Sort runs, the best first."""
    return sorted(runs, key=lambda run: -(measure(run.metrics.get("AP")) or 0.0))


def comparison_table(runs: Sequence[RunResult]) -> tuple[list[str], list[list[str]]]:
    """Return the columns, and a row a run: its name, the settings that differ, its numbers."""
    different = differing(runs)
    columns = ["run", *different, "AP", "AP50", "AP75", "best epoch", "epochs", "time"]
    rows = []
    for place, run in enumerate(runs):
        numbers = [shown(run.metrics.get(name))["text"] for name in ("AP", "AP50", "AP75")]
        counts = [number(run.trained.get(name)) for name in ("best_epoch", "epochs")]
        rows.append(
            [
                run.name,
                *(values[place] for values in different.values()),
                *numbers,
                *(DASH if count is None else f"{count:.0f}" for count in counts),
                duration(number(run.trained.get("seconds"))) or DASH,
            ]
        )
    return columns, rows


def _alike(runs: Sequence[RunResult]) -> bool:
    """Tell whether the runs were measured on as many images and boxes."""
    return len({(number(run.metrics.get("images")), number(run.metrics.get("boxes"))) for run in runs}) < 2


def warnings(runs: Sequence[RunResult]) -> list[str]:
    """Say what makes the numbers of the runs hard to compare."""
    classes = {tuple(sorted(_classes(run))) for run in runs}
    found = []
    if not _alike(runs):
        found.append("The runs were not measured on the same validation images: their AP cannot be compared.")
    if len(classes) > 1:
        found.append("The runs do not have the same classes.")
    return found


def write_comparison(runs: Sequence[RunResult], target: Path) -> None:
    """Write the page that compares runs: the table, AP over the epochs, AP by class."""
    columns, rows = comparison_table(runs)
    curves: list[dict[str, str]] = []
    for title, keys in (("AP", ("val", "AP")), ("AP50", ("val", "AP50")), ("Training loss", ("train", "loss"))):
        lines = [
            ([float(record["epoch"]) for record in run.log], series(run.log, *keys), place)
            for place, run in enumerate(runs)
        ]
        lines = [line for line in lines if any(value is not None and value >= 0 for value in line[1])]
        if lines:
            curves.append({"title": title, "svg": comparison_chart(f"cmp{len(curves)}", lines)})
    names = dict.fromkeys(name for run in runs for name in sorted(_classes(run)))
    classes = [
        {"name": name, "cells": _cells([within(run.metrics, "per_class", name, "AP") for run in runs])}
        for name in names
    ]
    page = render(
        "comparison.html.jinja",
        columns=columns,
        rows=rows,
        best=_best([run.metrics.get("AP") for run in runs]) if _alike(runs) else set(),
        runs=[
            {"name": run.name, "short": short, "place": run.place}
            for run, short in zip(runs, _shortened([run.name for run in runs]), strict=True)
        ],
        warnings=warnings(runs),
        curves=curves,
        classes=classes,
    )
    with replacing(target) as temporary:
        temporary.write_text(page, encoding="utf-8", errors="replace")


def _shortened(names: Sequence[str]) -> list[str]:
    """Return the last parts of the names where all else is the same, as in a sweep."""
    stems = {name.rpartition("-")[0] for name in names}
    return [name.rpartition("-")[2] if len(stems) == 1 else name for name in names]


def _classes(run: RunResult) -> list[str]:
    per_class = run.metrics.get("per_class")
    return list(per_class) if isinstance(per_class, dict) else []


def _cells(values: Sequence[object]) -> list[dict[str, Any]]:
    best = _best(values)
    return [{**shown(value), "best": place in best} for place, value in enumerate(values)]


def _best(values: Sequence[object]) -> set[int]:
    """Places of the highest number, unless all are the same."""
    measured = [measure(value) for value in values]
    there = [value for value in measured if value is not None]
    if len(set(there)) < 2:
        return set()
    return {place for place, value in enumerate(measured) if value == max(there)}
