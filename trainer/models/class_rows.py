"""Which rows of a published class head stay when it is made for other classes."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import torch
from torch import Tensor

_log = logging.getLogger("trainer")
_NAMES_SHOWN = 10


def match_names(known: Sequence[str | None], wanted: Sequence[str | None]) -> list[int | None]:
    """For each wanted class the row of the same name, or None; logs which are kept and which are made anew.

    Args:
        known: name by row, None for a row without a class. Case, spaces, hyphens and underscores do not matter.
        wanted: names by label. A label's number means nothing: CVAT numbers the labels of a task in their order.
    """
    row_of = {_plain(name): row for row, name in enumerate(known) if name is not None}
    origin = [None if name is None else row_of.get(_plain(name)) for name in wanted]
    kept = [str(name) for name, row in zip(wanted, origin, strict=True) if row is not None]
    anew = [str(name) for name, row in zip(wanted, origin, strict=True) if row is None]
    _log.info("class head: kept rows for %s; made anew for %s", _listed(kept), _listed(anew))
    return origin


def choose_rows(rows: Tensor, origin: Sequence[int | None], known: Sequence[str | None]) -> Tensor:
    """A class head's tensor `[K, ...]` for other classes: `[C, ...]`.

    A new class starts as the average of the known ones, so that it is neither likelier nor rarer than they are.

    Args:
        rows: of the known classes.
        origin: for each new class the row that it keeps; see `match_names`.
        known: name by row; rows without one have no part in the average.
    """
    named = [row for row, name in enumerate(known) if name is not None] or list(range(len(rows)))
    average = rows[named].mean(0)
    return torch.stack([average if row is None else rows[row] for row in origin])


def _plain(name: str) -> str:
    """A class name without what people write differently."""
    return "".join(letter for letter in name.casefold() if not letter.isspace() and letter not in "-_")


def _listed(names: list[str]) -> str:
    """The names, or as many as a line has room for."""
    more = len(names) - _NAMES_SHOWN
    return (", ".join(names[:_NAMES_SHOWN]) or "none") + (f" and {more} more" if more > 0 else "")
