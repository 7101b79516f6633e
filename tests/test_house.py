"""The layout's rules: which package and which room may import which, and what importing each costs."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PROJECT = Path(__file__).parent.parent
PACKAGES = ("pipelines", "steps", "trainer")
"""From the top down: a package imports from those behind it, never from those before it."""

FOREIGN = {
    "pipelines": {"torch", "torchvision"},
    "steps": {"hera", "kubernetes"},
    "trainer": {"boto3", "hera", "kubernetes", "obstore"},
}
"""What a package must not know of other people's work."""

ROOMS = {
    "pipelines": {
        "workflow": set(),
        "manifest": {"workflow"},
        "local": {"manifest", "workflow"},
        "cluster": {"manifest", "workflow"},
    },
    "steps": {
        "common": set(),
        "dataset": {"common"},
        "storage": {"common"},
        "cvat": {"common"},
        "dump": {"common", "cvat", "dataset", "storage"},
        "formats": {"common", "dataset"},
        "preparation": {"common", "dataset", "formats"},
        "report": {"common", "cvat"},
        "predictions": {"common", "cvat", "dataset", "dump", "storage"},
    },
    "trainer": {
        "data": set(),
        "models": {"data"},
        "evaluation": {"data", "models"},
        "training": {"data", "models", "evaluation"},
        "export": {"models", "evaluation"},
    },
}
"""The rooms of each package, and which rooms of the same package each may import."""

AT_THE_DOOR = {
    "pipelines": {"errors"},
    "steps": {"options"},
    "trainer": {"checkpoint", "config", "device", "errors", "lock"},
}
"""Modules beside the rooms that any of them may import; the others import rooms and are imported by none."""


def imports(path: Path) -> Iterator[str]:
    """Names that a file imports, wherever in it; `from a import b` counts as `a.b`."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import hides its package"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def wrong_imports(package: str, folder: Path) -> list[str]:
    """Imports of a package below `folder` that go the wrong way, as `file: name`."""
    above = set(PACKAGES[: PACKAGES.index(package)])
    if package == "pipelines":
        above.add("trainer")  # Only through steps.
    wrong = []
    files = sorted((folder / package).rglob("*.py"))
    assert files
    for path in files:
        inside = path.relative_to(folder / package).parts
        room = inside[0] if len(inside) > 1 else None
        for name in imports(path):
            top, _, rest = name.partition(".")
            allowed = top not in FOREIGN[package] | above
            if room and top == package:
                other = rest.partition(".")[0]
                allowed = other in {room} | ROOMS[package][room] | AT_THE_DOOR[package]
            if not allowed:
                wrong.append(f"{path.relative_to(folder)}: {name}")
    return wrong


@pytest.mark.parametrize("package", PACKAGES)
def test_imports_go_one_way(package: str) -> None:
    assert wrong_imports(package, PROJECT) == []


@pytest.mark.parametrize(
    ("file", "code"),
    [
        ("trainer/data/new.py", "from trainer.models import registry"),
        ("trainer/models/new.py", "import trainer.training.train"),
        ("steps/storage/new.py", "from steps import fetch"),
        ("steps/common/new.py", "def late():\n    from steps.report import words"),
        ("steps/new.py", "import pipelines"),
        ("pipelines/workflow/new.py", "from pipelines.cluster import submit"),
        ("pipelines/new.py", "from trainer import train"),
    ],
)
def test_an_import_that_goes_the_wrong_way_is_seen(file: str, code: str, tmp_path: Path) -> None:
    path = tmp_path / file
    path.parent.mkdir(parents=True)
    path.write_text(code)
    assert [line.partition(":")[0] for line in wrong_imports(path.relative_to(tmp_path).parts[0], tmp_path)] == [file]


@pytest.mark.parametrize("package", PACKAGES)
def test_every_folder_is_a_room_with_a_word_on_its_purpose(package: str) -> None:
    folders = {path.parent.relative_to(PROJECT / package) for path in (PROJECT / package).rglob("*.py")}
    assert {folder.parts[0] for folder in folders if folder.parts} == set(ROOMS[package])
    for folder in folders:
        assert ast.get_docstring(ast.parse((PROJECT / package / folder / "__init__.py").read_text())), folder


def test_the_tests_mirror_the_rooms() -> None:
    for package, rooms in ROOMS.items():
        for path in (PROJECT / "tests" / package).iterdir():
            if path.is_dir() and any(path.glob("test_*.py")):
                assert path.name in rooms, path


def test_files_that_the_documents_name_exist() -> None:
    known = {path.name for package in PACKAGES for path in (PROJECT / package).rglob("*.py")}
    for document in [*PROJECT.glob("*.md"), *PROJECT.glob("docs/*.md")]:
        text = document.read_text(encoding="utf-8")
        links = set(re.findall(r"\]\(([^)#:]+)\)", text))
        assert {link for link in links if not (document.parent / link).exists()} == set(), document
        # `name.py` in a sentence; code of the reader's own stands in blocks.
        named = set(re.findall(r"`([\w./]+\.py)`", text))
        missing = {name for name in named if not (PROJECT / name).is_file() and name not in known}
        assert missing == set(), document


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("pipelines.cli", ["torch", "trainer.training.train"]),
        ("pipelines.workflow.compile", ["torch", "trainer.training.train"]),
        ("steps.cli", ["torch", "hera", "matplotlib", "scipy"]),
        ("steps.fetch", ["torch", "pydantic", "botocore", "urllib3", "numpy"]),
        ("trainer.config", ["torch"]),
    ],
)
def test_importing_brings_no_more_than_it_needs(module: str, absent: list[str]) -> None:
    code = f"import sys, {module}; print([name for name in {absent!r} if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


PRINTS = re.compile(r"print|Console|(sys\.std(out|err)|typer|traceback|rich)\..*(echo|print|write).*")
"""Calls that put something on a terminal."""
MAY_PRINT = {
    "steps/common/console.py",  # The door.
    "steps/common/stopping.py",  # Words of ours; imports next to nothing.
    "steps/common/progress.py",  # Bars, with titles of ours.
    "trainer/training/progress.py",  # A bar; the trainer logs the rest.
}


def test_one_door_leads_to_the_terminal() -> None:
    found = {
        (path.relative_to(PROJECT).as_posix(), ast.unparse(node.func))
        for package in PACKAGES
        for path in (PROJECT / package).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and PRINTS.fullmatch(ast.unparse(node.func))
    }
    assert {file for file, _ in found} >= MAY_PRINT
    # What a program reads is passed on as it is.
    assert {each for each in found if each[0] not in MAY_PRINT} == {("pipelines/cli.py", "sys.stdout.write")}
