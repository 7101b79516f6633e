"""Charts as SVG, drawn by matplotlib in stand-in colours that become the page's CSS variables.

So one SVG is legible on a light page, on a dark page and on paper.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Sequence
from typing import Any

from steps.report.counting import RECALLS, Balance, ClassRow
from steps.report.formats import heading, shown
from steps.report.reading import series

# matplotlib is imported where it draws: a pod that only moves files has none.

_INK, _GRID, _FIRST, _SECOND = "#0a0b01", "#0a0b02", "#0a0b03", "#0a0b04"
_RUNS = tuple(f"#0a0b1{place}" for place in range(8))
_CSS_COLOURS = {
    _INK: "var(--muted)",
    _GRID: "var(--line)",
    _FIRST: "var(--first)",
    _SECOND: "var(--second)",
    **{colour: f"var(--run-{place})" for place, colour in enumerate(_RUNS)},
}
_MOST_CLASS_CURVES = 8

Line = tuple[Sequence[float], Sequence["float | None"], str]


def training_charts(
    log: Sequence[dict[str, Any]], figures: Sequence[str], best_epoch: int | None, measured_on: str = "validation"
) -> list[dict[str, Any]]:
    """AP, the model's own figures and learning rates over the epochs; what was not logged has no chart.

    Args:
        log: a record per epoch.
        figures: names of what the model reports of its training.
        best_epoch: to be marked.
        measured_on: kind of the images that AP is of.
    """
    epochs = [float(record["epoch"]) for record in log]
    both = [("Training", "first"), ("Validation", "second")]
    charts: list[dict[str, Any]] = []

    def add(
        title: str,
        note: str,
        legend: list[tuple[str, str]],
        paths: tuple[tuple[str, ...], tuple[str, ...]],
        **options: Any,
    ) -> None:
        values = [series(log, *path) for path in paths]
        drawn = [
            (epochs, line, colour)
            for line, colour in zip(values, (_FIRST, _SECOND), strict=True)
            if any(value is not None for value in line)
        ]
        if drawn:
            kept = [name for name, line in zip(legend, values, strict=True) if any(v is not None for v in line)]
            svg = _chart(f"c{len(charts)}", drawn, x_label="epoch", **options)
            charts.append({"title": title, "note": note, "legend": kept, "svg": svg})

    aps = [value for name in ("AP", "AP50") for value in series(log, "val", name) if value is not None and value >= 0]
    add(
        "AP and AP50",
        f"on the {measured_on} images, higher is better" if any(aps) else "both stayed at 0 in every epoch",
        [("AP", "first"), ("AP50", "second")],
        (("val", "AP"), ("val", "AP50")),
        bounds=(0.0, min(1.02, max(0.1, 1.08 * max(aps, default=0.0)))),
        mark=best_epoch,
    )
    for name in figures:
        title, note = (heading(name), "") if name != "loss" else ("Total loss", "the weighted sum that is minimised")
        add(title, note, both, (("train", name), ("val", name)))
    add(
        "Learning rate",
        "on a logarithmic scale",
        [("Rest of the model", "first"), ("Backbone", "second")],
        (("lr",), ("lr_backbone",)),
        logarithmic=True,
    )
    return charts


def comparison_chart(name: str, lines: Sequence[tuple[Sequence[float], Sequence[float | None], int]]) -> str:
    """A number of several runs over the epochs.

    Args:
        name: of the chart on its page.
        lines: epochs, values and the run's place on the page, which sets its colour; those of the first places are
            drawn in front, those beyond the eighth in grey.
    """
    drawn = [(xs, ys, _RUNS[place] if place < len(_RUNS) else _GRID) for xs, ys, place in reversed(lines)]
    return _chart(name, drawn, x_label="epoch")


def balance_chart(found: Balance, threshold: float) -> str:
    """Precision and recall over the score, with a mark at the threshold."""
    lines = [(found.scores, found.precision, _FIRST), (found.scores, found.recall, _SECOND)]
    return _chart("balance", lines, bounds=(0.0, 1.02), mark=threshold, x_label="score")


def precision_recall_charts(
    loose: dict[int, list[float]], strict: dict[int, list[float]], classes: Sequence[ClassRow], metrics: dict[str, Any]
) -> list[dict[str, Any]]:
    """Precision over recall at IoU 0.50 and 0.75: the mean over the classes, then classes, best first.

    Of many classes the best and the weakest are drawn; a class without true boxes has no curve.

    Args:
        loose: for each class precision at each of `RECALLS`, at IoU 0.50.
        strict: the same at IoU 0.75.
        classes: best first.
        metrics: the evaluation's.
    """
    if not any(value for curve in loose.values() for value in curve):
        return []

    def draw(title: str, numbers: dict[str, Any], ids: Sequence[int]) -> dict[str, Any]:
        lines = [
            (RECALLS, [sum(curves[key][place] for key in ids) / len(ids) for place in range(len(RECALLS))], colour)
            for curves, colour in ((loose, _FIRST), (strict, _SECOND))
        ]
        note = " and ".join(f"{name} {shown(numbers.get(name))['text']}" for name in ("AP50", "AP75"))
        svg = _chart(f"pr{len(charts)}", lines, bounds=(0.0, 1.02), x_label="recall", y_label="precision")
        return {"title": title, "note": note, "svg": svg}

    measured = [row for row in classes if row.id in loose]
    charts: list[dict[str, Any]] = []
    if len(measured) != 1:
        charts.append(draw("All classes, mean", metrics, sorted(loose)))
    half = _MOST_CLASS_CURVES // 2
    shortlist = measured if len(measured) <= _MOST_CLASS_CURVES else measured[:half] + measured[-half:]
    for row in shortlist:
        charts.append(draw(row.name, row.numbers, [row.id]))
    return charts


def _chart(
    name: str,
    lines: Sequence[Line],
    *,
    x_label: str,
    y_label: str = "",
    bounds: tuple[float, float] | None = None,
    mark: float | None = None,
    logarithmic: bool = False,
) -> str:
    """Draw lines as an SVG element whose colours are the page's CSS variables."""
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator

    # Text stays text: it takes the page's font, and the file is small. The salt makes ids repeatable.
    with matplotlib.rc_context({**matplotlib.rcParamsDefault, "svg.fonttype": "none", "svg.hashsalt": name}):
        figure = Figure(figsize=(3.7, 2.35), layout="constrained")
        FigureCanvasSVG(figure)
        figure.patch.set_visible(False)
        axes = figure.add_subplot()
        axes.patch.set_visible(False)
        top = 0.0
        logarithmic = logarithmic and any(y is not None and y > 0 for _, ys, _ in lines for y in ys)
        for xs, ys, colour in lines:
            points = [
                (x, y) for x, y in zip(xs, ys, strict=True) if y is not None and (y > 0 if logarithmic else y >= 0)
            ]
            if not points:
                continue
            top = max(top, max(y for _, y in points))
            axes.plot(
                *zip(*points, strict=True),
                color=colour,
                linewidth=1.8,
                # A few points alone would be a short, hard to see line.
                marker="o" if len(points) < 12 else "",
                markersize=3.2,
                drawstyle="steps-post" if logarithmic else "default",
            )
        if mark is not None:
            axes.axvline(mark, color=_INK, linewidth=0.9, dashes=(2, 2), zorder=0.5)
        if logarithmic:
            axes.set_yscale("log")
            # Whole decades, or a constant rate would stand on an axis without a number.
            positive = [y for _, ys, _ in lines for y in ys if y is not None and y > 0]
            axes.set_ylim(
                10.0 ** math.floor(math.log10(min(positive)) - 0.01),
                10.0 ** math.ceil(math.log10(max(positive)) + 0.01),
            )
            axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0e}".replace("e-0", "e-")))
            axes.yaxis.set_minor_locator(NullLocator())
        else:
            axes.set_ylim(*(bounds or (0.0, 1.06 * top or 1.0)))
            axes.yaxis.set_major_locator(MaxNLocator(nbins=5))
        if x_label == "epoch":
            axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
            xs = lines[0][0]
            if min(xs) == max(xs):
                axes.set_xlim(xs[0] - 1, xs[0] + 1)
        else:
            axes.set_xlim(0.0, 1.0)
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.spines["bottom"].set_color(_GRID)
        axes.grid(axis="y", color=_GRID, linewidth=0.7)
        axes.set_axisbelow(True)
        axes.tick_params(colors=_INK, labelsize=8, length=0, pad=5)
        axes.set_xlabel(x_label, color=_INK, fontsize=8)
        if y_label:
            axes.set_ylabel(y_label, color=_INK, fontsize=8)
        text = io.StringIO()
        figure.savefig(text, format="svg", transparent=True, metadata={"Date": None})
    return _inlined(text.getvalue(), name)


def _inlined(svg: str, name: str) -> str:
    """An SVG file as an element among others on one page."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    # The size comes from the page; ids must differ between the charts of one page.
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    svg = re.sub(r'(url\(#|href="#)', rf"\1{name}-", svg)
    for stand_in, variable in _CSS_COLOURS.items():
        svg = svg.replace(stand_in, variable)
    return svg
