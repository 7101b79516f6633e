"""Files that are either whole or not there."""

import json
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson
import yaml

from steps.common.errors import StepError


@contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """Give a temporary path beside `target`; on success flush it and rename it to `target`.

    On failure the temporary file is removed and `target` stays as it was.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.parent / f".part-{uuid.uuid4().hex}"
    try:
        yield temporary
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        os.replace(temporary, target)
    except OSError as error:
        # A full disk says which file it was for only when a file is opened.
        error.filename = error.filename or str(target)
        raise
    finally:
        temporary.unlink(missing_ok=True)


def write_json(target: Path, value: Any, *, indent: bool = True) -> None:
    """Write `value` as JSON, whole or not at all."""
    options = orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_APPEND_NEWLINE | (orjson.OPT_INDENT_2 if indent else 0)
    with replacing(target) as temporary:
        temporary.write_bytes(orjson.dumps(value, option=options))


def read_json(path: Path, made_by: str) -> Any:
    """Read a JSON file that an earlier step wrote; NaN and Infinity, which Python writes, are read as well.

    Raises:
        StepError: the file does not exist (`made_by` says what makes it) or is not JSON.
    """
    try:
        return parse_json(path.read_bytes())
    except FileNotFoundError:
        raise StepError(f"{path} does not exist: {made_by} makes it, run that first") from None
    except OSError as error:
        raise StepError(f"{path} cannot be read ({error.strerror}): {made_by} makes it") from None
    except json.JSONDecodeError as error:
        raise StepError(
            f"{path} is not readable JSON (line {error.lineno}, column {error.colno}: {error.msg}): "
            f"remove it and run {made_by} again"
        ) from None
    except (ValueError, RecursionError) as error:  # Not text, a number of thousands of digits, nested too deeply.
        raise StepError(f"{path} is not readable JSON ({error}): remove it and run {made_by} again") from None


def parse_yaml(text: str) -> Any:
    """Parse YAML that a person wrote.

    Raises:
        ValueError: it is none, or a value is not what it seems, such as a date; with one line.
    """
    try:
        return yaml.safe_load(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    # On a date that is none, an empty number and the like, the library raises whatever Python does.
    except Exception as error:
        what = "" if isinstance(error, yaml.YAMLError) else "a value is not what it seems: "
        raise ValueError(what + " ".join(str(error).split())) from None


def parse_json(content: bytes) -> Any:
    """Parse JSON, with the NaN and Infinity that Python writes.

    Raises:
        ValueError: it is not JSON; mostly a `json.JSONDecodeError`.
        RecursionError: it is nested too deeply.
    """
    try:
        return orjson.loads(content)
    except orjson.JSONDecodeError:
        return json.loads(content)
