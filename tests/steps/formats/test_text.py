from __future__ import annotations

import codecs
from pathlib import Path

import pytest

from steps.formats import text
from tests.steps.refusals import refused


@pytest.mark.parametrize(
    "content",
    [
        "a\n\n b\u2028c \n".encode(),
        "a\r\n\r\nb\u2028c".encode("utf-8-sig"),
        "a\r\rb\u2028c\r".encode("utf-16"),
        codecs.BOM_UTF16_BE + "a\n\nb\u2028c".encode("utf-16-be"),
    ],
)
def test_lines(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "text"
    path.write_bytes(content)
    assert list(text.lines(path)) == [(1, "a"), (3, "b\u2028c")]


@pytest.mark.parametrize(("content", "line"), [(b"a\n\xe9\n", 2), (codecs.BOM_UTF16_LE + b"a\0b", 1)])
def test_text_of_another_encoding(tmp_path: Path, content: bytes, line: int) -> None:
    path = tmp_path / "text"
    path.write_bytes(content)
    with refused(f"{path}, line {line}: this is not UTF-8 text", "save the file as UTF-8"):
        list(text.lines(path))


@pytest.mark.parametrize(("given", "number"), [("1", 1), (" 2.5e1 ", 25), (3, 3), ("-inf", float("-inf"))])
def test_number(given: object, number: float) -> None:
    assert text.number(given, "x.txt, line 1", "width") == number


@pytest.mark.parametrize("given", ["", "1,5", "1 2", None, [1], "9" * 100 + "x"])
def test_no_number(given: object) -> None:
    with refused("x.txt, line 1: width is ", "expected a number: dump the task again") as told:
        text.numbers([1, given], "x.txt, line 1", "width")
    assert len(told.message) < 140


@pytest.mark.parametrize("given", ["1.5", "nan", "inf"])
def test_no_whole_number(given: str) -> None:
    with refused(f"the class is '{given}', expected a whole number"):
        text.whole(given, "x.txt, line 1", "the class")


@pytest.mark.parametrize(
    ("given", "value"),
    [
        ("true", True),
        (" False ", False),
        ("7", 7),
        ("-0.5", -0.5),
        ("7e3", "7e3"),
        ("nan", "nan"),
        ("red", "red"),
        ("", ""),
        ("1" * 30, "1" * 30),
    ],
)
def test_value(given: str, value: object) -> None:
    found = text.value(given)
    assert found == value
    assert type(found) is type(value)


def test_a_document_that_strict_json_is_not(tmp_path: Path) -> None:
    path = tmp_path / "document.json"
    path.write_bytes(codecs.BOM_UTF8 + b'[NaN, -Infinity, "a"]')
    noted: list[str] = []
    document = text.read_document(path, noted.append)
    assert document[0] != document[0]
    assert document[1:] == [float("-inf"), "a"]
    assert [flaw.partition(" with ")[2].split()[0] for flaw in noted] == ["a", "NaN"]


@pytest.mark.parametrize("content", [b"[" * 200_000, b"[" + b"9" * 5000 + b", NaN]", b'{"a": }'])
def test_no_document(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "document.json"
    path.write_bytes(content)
    with refused(f"{path} is not readable JSON (", "dump the task again"):
        text.read_document(path)
