"""Numbers as the page writes them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from steps.report.reading import number

DASH = "\u2013"
_NOTHING_THERE = "Nothing of this kind is in the validation set, so there is nothing to measure"
_NOT_MEASURED = "This number was not measured"


def shown(value: object) -> dict[str, Any]:
    """A metric as the page shows it: its text, a tooltip where there is no number, its bar in percent."""
    found = number(value)
    if found is None or found < 0:
        return {"text": DASH, "title": _NOT_MEASURED if found is None else _NOTHING_THERE, "bar": None}
    return {"text": f"{found:.3f}", "title": "", "bar": f"{min(found, 1.0) * 100:.1f}" if found else None}


def percent(value: float | None) -> str:
    """A share in whole percent."""
    return DASH if value is None else f"{value * 100:.0f} %"


def count(value: float | None, singular: str, plural: str = "") -> str:
    """A number and its noun, or nothing where there is no number."""
    if value is None:
        return ""
    return f"{value:,.0f} {singular if value == 1 else plural or singular + 's'}"


def duration(seconds: float | None) -> str:
    """Seconds, minutes or hours."""
    if seconds is None or seconds < 0:
        return ""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min"


def listed(parts: Sequence[str]) -> str:
    """Parts of a sentence with commas, and "and" before the last."""
    return " and ".join(filter(None, [", ".join(parts[:-1]), *parts[-1:]]))


def shortened(name: str, most: int) -> str:
    """A name that takes at most so many characters."""
    return name if len(name) <= most else name[: most - 1].rstrip() + "…"


def heading(key: str) -> str:
    """A key of a JSON file as words."""
    words = key.replace("_", " ").strip()
    return words[:1].upper() + words[1:]
