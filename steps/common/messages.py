"""Names from a dump in messages: one line of visible characters, and not too many."""

import unicodedata
from collections.abc import Iterable

SHOWN = 3
"""How many a message names before it counts the rest."""
LONGEST = 160
"""Characters of a name that are shown."""


def cleaned(name: str) -> str:
    """Give a name without what no text holds: control characters, and halves of surrogates, which JSON can write."""
    if name.isprintable():
        return name
    return "".join("\ufffd" if unicodedata.category(sign) in ("Cc", "Cs") else sign for sign in name)


def printable(name: str) -> str:
    """Give a name from a dump as one line of visible characters, shortened in its middle."""
    if not name.isprintable():
        name = "".join(
            sign if sign.isprintable() else sign.encode("unicode_escape", "replace").decode() for sign in name
        )
    return name if len(name) <= LONGEST else f"{name[: LONGEST // 2]}...{name[-LONGEST // 2 :]}"


def some(names: Iterable[str], count: int | None = None) -> str:
    """Name the first few, and count the rest of `count` (None: of `names`)."""
    listed = list(names)
    count = len(listed) if count is None else count
    shown = [printable(name) for name in listed[:SHOWN]]
    more = f" and {count - len(shown)} more" if count > len(shown) else ""
    return ", ".join(shown) + more
