"""The command line: what it says of itself, and of what it cannot do."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.pipelines.command import pipelines

PROJECT = Path(__file__).parents[2]
COMMANDS = ["run", "compile", "submit", "watch", "publish", "lint"]


def test_without_arguments_the_help_is_printed() -> None:
    bare, asked = pipelines(), pipelines("--help")
    assert (bare.returncode, bare.stderr) == (0, "")
    assert bare.stdout == asked.stdout
    assert all(f"  {command} " in bare.stdout for command in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_each_commands_help_has_an_example_and_no_cut_lines(command: str) -> None:
    result = pipelines(command, "--help", env={**os.environ, "COLUMNS": "100"})
    assert f"cvat-detr {command}" in result.stdout.partition("Example")[2]
    assert "..." not in result.stdout.replace("[files]...", "").replace("files...", "")
    assert str(PROJECT) not in result.stdout


def test_choices_and_defaults_are_shown_as_such() -> None:
    run, submit = (" ".join(pipelines(command, "--help").stdout.split()) for command in ("run", "submit"))
    assert "--model MODEL Model: auto, ddq_lite0, " in run
    assert "auto: by the number of training images" in run
    assert "[default: (auto)]" in run
    assert "--via [auto|argo|kubernetes]" in submit


def test_the_version_is_that_of_the_project() -> None:
    version = re.search('^version = "(.+)"', (PROJECT / "pyproject.toml").read_text(), re.M)
    assert version
    assert pipelines("--version").stdout == f"cvat-detr {version[1]}\n"


def test_a_wheel_without_manifests_compiles_them(tmp_path: Path) -> None:
    for name in ("pipelines", "steps", "trainer"):
        shutil.copytree(PROJECT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))

    def installed(*arguments: str) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-m", "pipelines", *arguments]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)

    assert installed("lint").stdout.count(": ok") == 4
    assert "parameter 'epochs' is '0'" in installed("run", "--epochs", "0").stderr
    assert "no-such.yaml cannot be read" in installed("run", "--manifest", "no-such.yaml").stderr
    assert installed("compile").stdout.splitlines() == [
        "manifests/onepanel/detr-training.yaml",
        "manifests/argo/detr-training.workflowtemplate.yaml",
        "manifests/argo/detr-training.workflow.yaml",
        "manifests/argo/rbac.yaml",
    ]
