"""Names from a dump in messages: one line of visible characters, and not too many."""

import os
import re
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


_MARKS = re.compile("[\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ufeff]")
"""Marks that turn the direction of what follows, and breaks of lines that are none to ASCII (UAX 9, UAX 14)."""
_SECRET = re.compile(
    r"""(?ix)
    (?P<user>://)[^/\s@]+(?=@)
    | \b(?:AKIA|ASIA)[A-Z0-9]{12,}
    | (?P<bearer>\b(?:bearer|basic)\s+)[\w.~+/=-]{8,}
    | (?P<field>\b(?:x-amz-(?:signature|credential|security-token)|signature|awsaccesskeyid|password|authorization
        |(?:\w+[_-])?(?:secret|token)|(?:secret|access)[_-]?(?:access[_-]?)?key(?:[_-]?id)?)
        (?:['"]?\s*[=>]\s*['"]?|['"]\s*:\s*['"]|\s*:\s*(?=\S*\d)))
      (?!bearer|basic)[^\s'"&<>,;]{8,}
    """
)
"""Where a server's answer or an address holds what lets somebody in."""
_HOLDS_SECRET = re.compile(r"SECRET|TOKEN|PASSWORD|ACCESS_KEY")


def unmarked(text: str) -> str:
    """Give a text that shows in the order in which it is written, whatever class and file names are in it."""
    return text if text.isascii() else _MARKS.sub("\ufffd", text)


def redacted(text: str) -> str:
    """Give a text without the secrets that the environment holds, nor what looks like one."""
    for name, value in os.environ.items():
        if len(value) >= 8 and _HOLDS_SECRET.search(name) and not name.endswith(("_FILE", "_PATH", "_URL")):
            text = text.replace(value, "***")
    return _SECRET.sub(lambda found: f"{found['user'] or found['bearer'] or found['field'] or ''}***", text)


def presentable(text: str) -> str:
    """Give a text as a terminal or a log may have it: `redacted`, and without what steers a terminal; lines stay."""
    text = redacted(text)
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        sign if sign in "\n\t" or unicodedata.category(sign) not in ("Cc", "Cs") else repr(sign)[1:-1]
        for sign in unmarked(text)
    )


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
