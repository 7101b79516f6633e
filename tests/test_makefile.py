"""What is given to `make run` reaches the program as it was written, and is never run as a command."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
import typer

from pipelines.cli import app

ROOT = Path(__file__).parents[1]
HOSTILE = [
    "it's.zip",
    "cost$5.zip",
    "$(touch made).zip",
    "$(shell touch made).zip",
    "`touch made`.zip",
    "; touch made #.zip",
    'a "b" c.zip',
    "$$HOME ${HOME} $HOME.zip",
    "-x%\\n.zip",
    "größe 字.zip",
]


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Run `make run`, whose program says what options it found."""
    if shutil.which("make") is None:
        pytest.skip("there is no make here")
    shutil.copy(ROOT / "Makefile", tmp_path)
    (tmp_path / "pyproject.toml").touch()
    program = tmp_path / ".venv" / "bin" / "python"
    program.parent.mkdir(parents=True)
    (tmp_path / ".venv" / ".ready").touch()
    program.write_text("#!/bin/sh\nprintf '%s\\n' \"$*\"\nexec env -0\n")
    program.chmod(0o755)

    def run(*values: str, **environment: str) -> dict[str, object]:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
        done = subprocess.run(
            ["make", "run", *values], cwd=tmp_path, env={**inherited, **environment}, capture_output=True, check=True
        )
        assert sorted(path.name for path in tmp_path.iterdir()) == [".venv", "Makefile", "pyproject.toml"]
        called, _, rest = done.stdout.partition(b"\n")
        assert called == b"-m pipelines run"
        found = dict(line.split(b"=", 1) for line in rest.split(b"\0") if b"=" in line)
        for name, value in found.items():
            monkeypatch.setenv(os.fsdecode(name), os.fsdecode(value))
        command = typer.main.get_command(app).commands["run"]  # type: ignore[attr-defined]
        options = dict(command.make_context("run", []).params)
        return {name: str(value) if isinstance(value, Path) else value for name, value in options.items()}

    return run


@pytest.mark.parametrize("by_environment", [False, True])
@pytest.mark.parametrize("value", HOSTILE)
def test_a_value_arrives_as_it_is(make, value: str, by_environment: bool) -> None:
    param = f"hyperparameters={value.replace(' ', '_')}"
    given = {"DUMP": value, "MODEL": value, "EPOCHS": value, "PARAMS": f"{param} batch-size=4"}
    on_the_line = (f"{name}={text}" for name, text in given.items())
    found = make(**given) if by_environment else make(*on_the_line)
    wanted = {"dump": value, "model": value, "epochs": value, "param": [param, "batch-size=4"]}
    assert {name: found[name] for name in wanted} == wanted


def test_what_is_not_given_is_left_to_the_program(make) -> None:
    found = make()
    assert (found["dump"], found["model"], found["epochs"], found["param"]) == ("", "", "", [])
