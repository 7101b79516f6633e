"""Text that a dump holds: lines, numbers and values, every refusal naming the file and the line."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import orjson

from steps.common.errors import StepError
from steps.common.messages import printable
from steps.common.numbers import to_float, to_int

_NUMBER = re.compile(r"[+-]?(\d+|\d*\.\d+|\d+\.\d*)", re.ASCII)


def read_text(path: Path) -> str:
    """Read a file of UTF-8 text, or of UTF-16 that begins with a byte order mark.

    Raises:
        StepError: it is neither.
    """
    content = path.read_bytes()
    utf_16 = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        return content.decode("utf-16" if utf_16 else "utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise StepError(f"{path}, line {line}: this is not UTF-8 text: save the file as UTF-8") from None


def lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the number (from 1) and the stripped text of each line that is not blank, whatever ends it."""
    for number, line in enumerate(re.split(r"\r\n|\r|\n", read_text(path)), 1):
        if line := line.strip():
            yield number, line


def read_document(path: Path, note: Callable[[str], object] = lambda flaw: None) -> Any:
    """Read JSON, with the byte order mark and the NaN that some exporters write.

    Args:
        path: of the file.
        note: called with each such thing that strict JSON does not allow.

    Raises:
        StepError: it is not JSON.
    """
    content = path.read_bytes()
    try:
        return orjson.loads(content)
    except orjson.JSONDecodeError:
        pass
    if content.startswith(codecs.BOM_UTF8):
        note("annotation file with a byte order mark")
    constants: set[str] = set()

    def constant(name: str) -> float:
        constants.add(name)
        return float(name.replace("Infinity", "inf"))

    try:
        document = json.loads(read_text(path), parse_constant=constant)
    except json.JSONDecodeError as error:
        raise StepError(
            f"{path} is not readable JSON (line {error.lineno}, column {error.colno}: {error.msg}): dump the task again"
        ) from None
    except RecursionError:
        raise StepError(f"{path} is not readable JSON (nested too deeply): dump the task again") from None
    except ValueError as error:  # A number of thousands of digits.
        raise StepError(f"{path} is not readable JSON ({error}): dump the task again") from None
    if constants:
        note("annotation file with NaN or Infinity, which JSON does not allow")
    return document


def shown(value: object) -> str:
    """A value in a message: one line, and not too long."""
    try:
        text = printable(repr(value))
    except (ValueError, RecursionError):  # A number of thousands of digits.
        text = f"a {type(value).__name__} without end"
    return text if len(text) <= 60 else f"{text[:57]}..."


def number(text: object, where: str, what: str) -> float:
    """Read a number; NaN and infinity are numbers here.

    Raises:
        StepError: it is none; `where` names the file and the place in it, `what` the field.
    """
    try:
        return to_float(text)
    except ValueError:
        raise StepError(f"{where}: {what} is {shown(text)}, expected a number: dump the task again") from None


def numbers(texts: Sequence[object], where: str, what: str) -> list[float]:
    """Read several numbers of one field, as `number` does."""
    try:
        return [to_float(text) for text in texts]
    except ValueError:
        return [number(text, where, what) for text in texts]


def whole(text: object, where: str, what: str) -> int:
    """Read a whole number, which may be written as 3.0.

    Raises:
        StepError: it is none.
    """
    try:
        return to_int(text)
    except ValueError:
        raise StepError(
            f"{where}: {what} is {shown(text)}, expected a whole number of up to 15 digits: dump the task again"
        ) from None


def value(text: str) -> bool | int | float | str:
    """An attribute's value from its text: true and false, numbers, or the text itself."""
    text = text.strip()
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    if len(text) <= 18 and _NUMBER.fullmatch(text):
        return float(text) if "." in text else int(text)
    return text
