"""The tables of the page, as the template draws them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from steps.report.counting import Cell, ClassRow, SizeRow
from steps.report.formats import DASH, heading, percent, shortened, shown
from steps.report.reading import number, rows

_MOST_IN_MATRIX = 12
_MOST_MIXED_UP = 8

COCO_NUMBERS = (
    ("AP", "The main number: average precision over ten strictnesses of overlap (IoU 0.50 to 0.95)."),
    ("AP50", "A box counts as right when it overlaps the truth by half (IoU 0.50): was the object found?"),
    ("AP75", "The same at IoU 0.75: was the box also placed well?"),
    ("AP_small", "AP of small objects, under 32 x 32 pixels."),
    ("AP_medium", "AP of medium objects, 32 x 32 to 96 x 96 pixels."),
    ("AP_large", "AP of large objects, over 96 x 96 pixels."),
    ("AR1", "Share of the true boxes found when only the single best guess in each image counts."),
    ("AR10", "The same with the ten best guesses in each image."),
    ("AR100", "The same with the hundred best guesses: the most that this model can find."),
    ("AR_small", "AR100 of small objects."),
    ("AR_medium", "AR100 of medium objects."),
    ("AR_large", "AR100 of large objects."),
)


def number_table(metrics: dict[str, Any]) -> list[dict[str, Any]]:
    """COCO's twelve numbers, each with a word on what it says."""
    return [{"name": name, "value": shown(metrics.get(name)), "why": why} for name, why in COCO_NUMBERS]


def class_table(classes: Iterable[ClassRow]) -> list[dict[str, Any]]:
    """A row a class."""
    return [
        {
            "name": row.name,
            **{key: shown(value) for key, value in row.numbers.items()},
            "boxes": f"{row.boxes:,}",
            "train": DASH if row.train_boxes is None else f"{row.train_boxes:,}",
            "hits": f"{row.hits:,}",
            "missed": f"{row.missed:,}",
            "false_positives": f"{row.false_positives:,}",
            "threshold": f"{row.threshold:.2f}",
            "precision": percent(row.precision),
            "recall": percent(row.recall),
        }
        for row in classes
    ]


_SIZE_WORDS = {
    "small": "under 32 x 32 px",
    "medium": "32 x 32 to 96 x 96 px",
    "large": "over 96 x 96 px",
}


def size_table(sizes: Iterable[SizeRow], metrics: dict[str, Any]) -> list[dict[str, Any]]:
    """A row for small, medium and large objects."""
    return [
        {
            "name": heading(row.name),
            "note": _SIZE_WORDS[row.name],
            "boxes": f"{row.boxes:,}",
            "missed": f"{row.missed:,}",
            "share": percent(row.missed / row.boxes if row.boxes else None),
            "bar": f"{row.missed / row.boxes * 100:.1f}" if row.missed else None,
            "false_positives": f"{row.false_positives:,}",
            "ap": shown(metrics.get(f"AP_{row.name}", None if row.boxes else -1)),
        }
        for row in sizes
    ]


def confusion_table(cells: Counter[Cell], classes: Sequence[ClassRow], names: dict[int, str]) -> dict[str, Any] | None:
    """The matrix of true against predicted classes, and the pairs that are mixed up most.

    With more than a dozen classes the matrix shows those that are mixed up most. None where there is neither
    a true box nor a prediction.
    """
    if not cells:
        return None
    mixed = sorted(
        ((times, a, b) for (a, b), times in cells.items() if a is not None and b is not None and a != b),
        key=lambda row: (-row[0], row[1], row[2]),
    )
    known = [row.id for row in classes if any(row.id in cell for cell in cells)]
    known += sorted({key for cell in cells for key in cell if key is not None} - set(known))
    if len(known) > _MOST_IN_MATRIX:
        trouble: Counter[int] = Counter()
        for times, a, b in mixed:
            trouble[a] += times
            trouble[b] += times
        worst = sorted(known, key=lambda key: -trouble[key])[:_MOST_IN_MATRIX]
        drawn = [key for key in known if key in worst]
    else:
        drawn = known
    order: list[int | None] = [*drawn, None]

    def name(key: int) -> str:
        return names.get(key, f"class {key}")

    lines = []
    for true in order:
        row_total = sum(times for (a, _), times in cells.items() if a == true)
        values = []
        for predicted in order:
            times = cells[true, predicted]
            if true is None and predicted is None:
                # What was rightly left alone is not counted.
                values.append({"text": "", "tint": "", "kind": "blank"})
                continue
            values.append(
                {
                    "text": f"{times:,}",
                    # Light enough for the ink over it. The background has no shares, as its total is unknown.
                    "tint": f"{0.55 * times / row_total:.3f}" if times and true is not None else "",
                    "kind": "zero" if not times else "right" if true == predicted else "",
                }
            )
        lines.append({"name": name(true) if true is not None else None, "values": values})
    return {
        "columns": [None if key is None else {"name": name(key), "short": shortened(name(key), 16)} for key in order],
        "rows": lines,
        "predicted": any(predicted is not None for _, predicted in cells),
        "left_out": len(known) - len(drawn),
        "mixed": [
            {"true": shortened(name(a), 40), "predicted": shortened(name(b), 40), "times": f"{times:,}"}
            for times, a, b in mixed[:_MOST_MIXED_UP]
        ],
    }


_EXAMPLES = 3


def prepared_tables(prepared: dict[str, Any]) -> list[dict[str, Any]]:
    """Every map of counts in the prepare report as a small table; maps of maps get a column a key."""
    tables = []
    order = ("images", "boxes", "classes", "repaired", "dropped", "skipped", "lost", "noted")
    for key in [*(k for k in order if k in prepared), *sorted(k for k in prepared if k not in order)]:
        value = prepared[key]
        if not isinstance(value, dict) or not value:
            continue
        if all(isinstance(row, dict) for row in value.values()):
            columns = list(dict.fromkeys(str(name) for row in value.values() for name in row))
            lines = [(str(name), [_cell(row.get(c)) for c in columns]) for name, row in value.items()]
            tables.append({"name": heading(key), "columns": [heading(c) for c in columns], "rows": lines})
        elif all(number(count) is not None for count in value.values()):
            # Class names and file names stay as they are; the keys of these maps are reasons and splits.
            lines = [(heading(str(name)), [_cell(count)]) for name, count in value.items()]
            tables.append({"name": heading(key), "columns": [], "rows": lines})
    return tables


def _cell(value: object) -> str:
    if isinstance(value, list):
        more = f" and {len(value) - _EXAMPLES} more" if len(value) > _EXAMPLES else ""
        return ", ".join(shortened(str(name), 60) for name in value[:_EXAMPLES]) + more
    found = number(value)
    if found is None:
        return DASH if value is None or isinstance(value, float) else str(value)
    return f"{found:,.0f}" if found == int(found) else f"{found:g}"


def settings_table(trained: dict[str, Any]) -> list[tuple[str, str]]:
    """The run's configuration as rows, nested keys joined by dots."""
    lines: list[tuple[str, str]] = []

    def walk(prefix: str, value: object) -> None:
        if isinstance(value, dict) and value:
            for key, inner in value.items():
                walk(f"{prefix}.{key}" if prefix else str(key), inner)
        else:
            lines.append((prefix, _text(value)))

    config = trained.get("config")
    if isinstance(config, dict):
        walk("", config)
    return lines


def recipe_table(trained: dict[str, Any]) -> list[dict[str, str]]:
    """The settings that the trainer chose by itself: field, value and reason."""
    return [
        {"field": str(row.get("field")), "value": _text(row.get("value")), "reason": str(row.get("reason", ""))}
        for row in rows(trained.get("recipe"))
        if row.get("field")
    ]


def warning_list(trained: dict[str, Any]) -> list[str]:
    """What the trainer wrote down as remarkable."""
    warnings = trained.get("warnings")
    return [text for text in warnings if isinstance(text, str) and text.strip()] if isinstance(warnings, list) else []


def _text(value: object) -> str:
    plain = json.dumps(value, ensure_ascii=False) if isinstance(value, (dict, list)) else str(value)
    return shortened(plain, 300)
