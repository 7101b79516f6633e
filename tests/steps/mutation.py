"""Hostile variations of dumps, zips, images and checkpoints, and a process that what is made of them may not harm."""

from __future__ import annotations

import contextlib
import functools
import io
import json
import multiprocessing
import os
import re
import resource
import struct
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import google_crc32c

LIMIT_S = 60
"""After so long a case counts as one that hangs, and its process is killed. The limits themselves are tested apart."""
MEMORY = 3_000_000_000
"""Bytes of a case's process; the tests' own modules are among them."""

NUMBERS = (
    "0", "-1", "1e300", "-1e300", "1e-320", "nan", "inf", "-Infinity", "NaN", "1_0", "\u0661\u0662", "\uff11", "0x10",
    str(2**31), str(2**53), str(2**63), str(2**64), "-" + str(2**63), "1" + "0" * 30, "9" * 400, "9" * 5000, "1.5", "",
)  # fmt: skip
NAMES = (
    "", " ", "..", ".", "/", "../outside/secret.txt", "../outside/secret.png", "OUTSIDE/secret.png", "a/" * 2000,
    "x" * 300, "x" * 5000, "\x00", "a\nb", "\x1b[31mred", "\u202egpj.exe", "\ud800", "\ufffe", "\u0315\u0300" * 500,
    "-rf", "~", "\\..\\..\\x", "C:\\x", "{{7*7}}", "%s%n", "&lt;", "!!int",
    "<!DOCTYPE a [<!ENTITY b SYSTEM 'file:///etc/passwd'>]>",
    "*a", "<<", "null", "true", "[[[[", "{{{{", "'", '"', "\\", "#", ",", ";", ":", "=",
)  # fmt: skip
BYTES = (
    b"\0", b"\xff" * 4, b"\xff" * 8, b"\x7f\xff\xff\xff", b"\x80" * 9, b"PK\3\4", b"\xff\xd8\xff",
    b"%!PS-Adobe-3.0 EPSF-3.0\n",
    b"GIF89a" + b"\xff" * 8, b"II*\0\x08\0\0\0\xff\xff", b"\xfe\xff", b"\xff\xfe", b"\xef\xbb\xbf", b"[" * 3000,
    b"<a>" * 3000,
)  # fmt: skip
VALUES: tuple[Any, ...] = (
    None, True, False, [], {}, [[]], [{}], "", *NAMES[:40], 0, -1, 2**31, 2**53, 2**63, 2**64, 10**30, 1e300, 0.5,
    float("nan"), float("inf"), [None] * 4, [1, 2, 3], [1e308] * 4, ["1", "2", "3", "4"],
    {"size": [10**9] * 2, "counts": [0, 10**18]},
)  # fmt: skip
_NUMBER = re.compile(rb"-?\d+(?:\.\d+)?")
_QUOTED = re.compile(rb"(?<=\")[^\"\n]*(?=\")|(?<=>)[^<>\n]+(?=<)|(?<=')[^'\n]*(?=')")


def encoded(text: str) -> bytes:
    return text.encode(errors="surrogatepass")


def other_bytes(random: Random, content: bytes) -> bytes:
    """What becomes of a file's bytes."""
    kind = random.choice(("number", "text", "flip", "cut", "insert", "repeat", "swap", "nothing"))
    places = list({"number": _NUMBER, "text": _QUOTED}[kind].finditer(content)) if kind in ("number", "text") else []
    if places:
        place = random.choice(places)
        new = encoded(random.choice(NUMBERS if kind == "number" and random.random() < 0.5 else (*NAMES, *NUMBERS)))
        return content[: place.start()] + new + content[place.end() :]
    start, end = sorted(random.randint(0, len(content)) for _ in range(2))
    if kind == "cut":
        return content[:start] + content[end:]
    if kind == "insert":
        return content[:start] + random.choice(BYTES) + content[start:]
    if kind == "repeat":
        return content[:end] + content[start:end][: 1 << 16] * random.choice((1, 3, 50)) + content[end:]
    if kind == "swap":
        return content[end:] + content[start:end] + content[:start]
    if kind == "nothing":
        return b"\0" * len(content) if random.random() < 0.5 else b""
    changed = bytearray(content)
    for _ in range(random.randint(1, 4)):
        if changed:
            changed[random.randint(0, len(changed) - 1)] = random.randint(0, 255)
    return bytes(changed)


def other_value(random: Random, document: Any, depth: int = 0) -> Any:
    """A document with one value in it another, gone, or twice."""
    if isinstance(document, dict | list) and document and random.randint(0, 9) < 9 - depth:
        keys = list(document) if isinstance(document, dict) else list(range(len(document)))
        key = random.choice(keys)
        copy = document.copy()
        how = random.randint(0, 9)
        if how == 0:
            del copy[key]
        elif how == 1 and isinstance(copy, list):
            copy.append(copy[key])
        elif how == 2 and isinstance(copy, dict):
            copy[random.choice(NAMES)] = copy[key]
        else:
            copy[key] = other_value(random, document[key], depth + 1)
        return copy
    return random.choice(VALUES)


def records_of(content: bytes) -> list[bytes]:
    found, place = [], 0
    while place + 12 <= len(content):
        (length,) = struct.unpack_from("<Q", content, place)
        found.append(content[place + 12 : place + 12 + length])
        place += 16 + length
    return found


def framed(record: bytes) -> bytes:
    """A record as TFRecord has it, with sums that are right: what is behind them is what is to be tested."""

    def sum_of(part: bytes) -> bytes:
        crc = google_crc32c.value(part)
        return struct.pack("<I", (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF)

    length = struct.pack("<Q", len(record))
    return length + sum_of(length) + record + sum_of(record)


def other_dump(random: Random, files: dict[str, bytes]) -> dict[str, bytes | None]:
    """A dump with one to three of its files changed; None stands for a folder in a file's place."""
    changed: dict[str, bytes | None] = dict(files)
    names = sorted(files)
    # Annotations are worth more than pixels.
    texts = [name for name in names if not name.lower().endswith((".png", ".jpg"))] or names
    for _ in range(random.randint(1, 3)):
        name = random.choice(texts if random.randint(0, 4) else names)
        content = changed.get(name)
        if content is None:
            continue
        how = random.randint(0, 19)
        if how == 0:
            changed[name] = None
        elif how == 1:
            del changed[name]
        elif how == 2:
            changed[random.choice((f"more/{name}", f"{name}.txt", f"x/{name}.xml", f"annotations/{name}"))] = content
        elif how == 3:
            changed[name] = files[random.choice(names)]
        elif name.endswith(".json") and how < 14:
            with contextlib.suppress(ValueError):
                document = other_value(random, json.loads(content))
                changed[name] = json.dumps(document, ensure_ascii=random.random() < 0.5).encode(errors="surrogatepass")
        elif name.endswith(".tfrecord") and how < 16:
            records = records_of(content)
            if records:
                index = random.randint(0, len(records) - 1)
                records[index] = other_bytes(random, records[index])
            changed[name] = b"".join(map(framed, records))
        else:
            changed[name] = other_bytes(random, content)
    return changed


def write_dump(root: Path, files: dict[str, bytes | None], outside: Path) -> None:
    """Write a dump's files, and beside it a folder that nothing may open."""
    for name, content in files.items():
        path = root / name
        with contextlib.suppress(OSError):  # A folder where a file is, or the other way round.
            if content is None:
                path.mkdir(parents=True, exist_ok=True)
            else:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content.replace(b"OUTSIDE", os.fsencode(outside)))
    outside.mkdir(exist_ok=True)
    (outside / "secret.txt").write_text("the secret")
    (outside / "secret.png").write_bytes(b"the secret")


@functools.cache
def _commands() -> Any:
    from steps.cli import command_line

    return command_line()


def _run_step(arguments: list[str], outside: str) -> tuple[int | str, str, list[str]]:
    """Exit status (or a traceback), stderr, and what was opened in `outside`."""
    from steps.common.console import run_app
    from steps.common.errors import StepError
    from trainer.errors import TrainerError

    _touched[:] = [outside]
    out, err = io.StringIO(), io.StringIO()
    sys.argv = ["steps", *arguments]
    status: int | str
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            status = run_app(_commands, StepError, TrainerError)
    except BaseException:
        status = traceback.format_exc()
    touched, _touched[:] = _touched[1:], []
    return status, err.getvalue(), touched


def _load(path: str, outside: str) -> tuple[int | str, str, list[str]]:
    from steps.common.console import fail
    from trainer.errors import TrainerError
    from trainer.evaluation.detector import load

    err = io.StringIO()
    try:
        with contextlib.redirect_stderr(err):
            load(path, "cpu")
    except TrainerError as error:
        with contextlib.redirect_stderr(err):
            return fail(str(error)), err.getvalue(), []
    except BaseException:
        return traceback.format_exc(), "", []
    return 0, "", []


def _look(path: str) -> tuple[int | str, str, list[str]]:
    from steps.common.errors import StepError
    from steps.formats.mask_image import colours
    from steps.preparation.image_headers import read_header
    from trainer.data.images import read_image, read_size, read_thumbnail
    from trainer.errors import TrainerError

    reads: list[Callable[[Path], object]] = [
        read_image, read_size, lambda file: read_thumbnail(file, 8), lambda file: [*colours(file)],
    ]  # fmt: skip
    err = io.StringIO()
    with contextlib.redirect_stderr(err):
        read_header(path)
        for read in reads:
            try:
                read(Path(path))
            except (StepError, TrainerError) as error:
                if len(str(error).splitlines()) != 1:
                    return traceback.format_exc(), "", []
            except BaseException:
                return traceback.format_exc(), "", []
    return 0, "", []


_touched: list[str] = []


def _watch(event: str, arguments: tuple[Any, ...]) -> None:
    if _touched and event in ("open", "os.scandir", "os.listdir", "os.rename", "os.remove", "os.link", "os.symlink"):
        for argument in arguments[:2]:
            if isinstance(argument, str | bytes | os.PathLike):
                path = os.path.realpath(os.fsdecode(argument)) if b"\0" not in os.fsencode(argument) else ""
                if path.startswith(_touched[0]):
                    _touched.append(f"{event} {path}")


def _serve(connection: Any) -> None:
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
    sys.addaudithook(_watch)
    while True:
        action, *arguments = connection.recv()
        connection.send(action(*arguments))


class Victim:
    """A process that takes one case after another; one that hangs or falls is replaced."""

    def __init__(self) -> None:
        self._process: Any = None
        self._connection: Any = None

    def suffer(self, action: Callable[..., Any], *arguments: Any) -> tuple[int | str, str, list[str]]:
        if self._process is None:
            context = multiprocessing.get_context("fork")
            self._connection, theirs = context.Pipe()
            self._process = context.Process(target=_serve, args=(theirs,), daemon=True)
            self._process.start()
            theirs.close()
        self._connection.send((action, *arguments))
        try:
            if self._connection.poll(LIMIT_S):
                answer: tuple[int | str, str, list[str]] = self._connection.recv()
                return answer
            fate = f"hung for {LIMIT_S} s"
        except EOFError:
            self._process.join()
            fate = f"fell with {self._process.exitcode}"
        self.end()
        return fate, "", []

    def step(self, *arguments: object, outside: Path) -> None:
        """Run a step; it must end well or in one line, and leave alone what is outside."""
        self._expect(self.suffer(_run_step, [str(each) for each in arguments], os.path.realpath(outside)))

    def load(self, path: Path) -> None:
        """Open a checkpoint; the same holds."""
        self._expect(self.suffer(_load, str(path), ""))

    def look(self, path: Path) -> None:
        """Read an image in every way in which one is read; the same holds."""
        self._expect(self.suffer(_look, str(path)))

    @staticmethod
    def _expect(answer: tuple[int | str, str, list[str]]) -> None:
        status, said, touched = answer
        assert status in (0, 2), status
        errors = [line for line in said.splitlines() if line.startswith("error: ")]
        assert len(errors) == (1 if status else 0), said
        assert said.count("\n") == len(errors), said
        assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f\u202a-\u202e]", said), said
        assert touched == []
        assert "the secret" not in said

    def end(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self._process = None
