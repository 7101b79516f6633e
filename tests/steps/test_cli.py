"""The steps as a shell and a workflow call them: in a process of their own."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from steps.cli import STEPS, command_line, parse
from steps.common import console
from steps.common.console import fail
from steps.common.errors import StepError
from steps.options import MODEL_CHOICES
from tests.steps.refusals import refused
from trainer.errors import TrainerError

ROOT = Path(__file__).resolve().parents[2]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "steps", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT)


def refusal(*arguments: str) -> str:
    """Run a step that refuses; give the one line that it says on stderr."""
    done = run(*arguments)
    assert done.returncode == 2
    [line] = done.stderr.splitlines()
    assert line.startswith("error: ")
    return line


def test_help(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every flag, choices and `auto` as such, and an example that can be run."""
    monkeypatch.setenv("COLUMNS", "100")
    screens = {name: run(name, "--help") for name in STEPS}
    for name, done in screens.items():
        assert (done.returncode, done.stderr) == (0, "")
        assert max(map(len, done.stdout.splitlines())) <= 100
        for parameter in STEPS[name].__annotations__:
            assert parameter == "return" or f"--{parameter.replace('_', '-')}" in done.stdout
        [example] = [line for line in done.stdout.splitlines() if line.startswith("    python -m steps ")]
        assert parse(shlex.split(example)[3:])[0] == name
    training = " ".join(screens["train"].stdout.split())
    assert f"{', '.join(MODEL_CHOICES)}; or a published one: hf:NAME-OR-FOLDER. auto: by what is there." in training
    assert training.count("[default: (auto)]") == 3


def test_no_arguments_and_version() -> None:
    done = run()
    assert (done.returncode, done.stderr) == (0, "")
    assert all(f"\n  {name} " in done.stdout for name in STEPS)
    done = run("--version")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("cvat-detr")


def test_a_refusal_is_left_where_kubernetes_looks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(console, "TERMINATION_LOG", tmp_path / "log")
    fail("on a laptop")
    assert not (tmp_path / "log").exists()
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    assert fail("image 7 is missing", 75) == 75
    assert (tmp_path / "log").read_text() == "image 7 is missing"


def test_windows_is_one_line() -> None:
    code = "import os, steps.cli; os.name = 'nt'; steps.cli.main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stderr) == (2, "error: cvat-detr needs Linux or macOS: on Windows, run it in WSL\n")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["fetsh"], ["No such command 'fetsh'", "fetch"]),
        (["fetch"], ["Missing option", "--annotation-path"]),
        (["prepare", "--dataset-dir", ".", "--val-splt", "3"], ["--val-splt", "--val-split"]),
        (["prepare", "--dataset-dir", ".", "--val-split", "100"], ["--val-split", "99"]),
        (["prepare", "--dataset-dir", ".", "--seed", "abc"], ["--seed", "integer"]),
        (["prepare", "--dataset-dir"], ["--dataset-dir", "requires an argument"]),
        (["prepare", "--dataset-dir", ".", "stray"], ["stray"]),
        (["train", "--dataset-dir", ".", "--output-dir", ".", "--epochs", "0"], ["--epochs", "from 1"]),
        (
            ["train", "--dataset-dir", ".", "--output-dir", ".", "--model", "detr"],
            ["--model", "'detr'", "ddq_lite0"],
        ),
        (["train", "--dataset-dir", ".", "--output-dir", ".", "--epochs", "abc"], ["--epochs", "'abc'", "auto"]),
        (["train", "--dataset-dir", ".", "--output-dir", ".", "--batch-size", "0"], ["--batch-size", "'0'", "auto"]),
    ],
)
def test_wrong_command_line(arguments: list[str], words: list[str]) -> None:
    line = refusal(*arguments)
    assert all(word in line for word in words)


PLACES = ["/dev/zero", "/dev/null", "pipe", "circle", "circle/x", "file/x", "x" * 5000, "~nobody-of-that-name/x"]
NO_FOLDERS = ["/dev/null", "/proc/x", "pipe", "circle", "circle/x", "file", "file/x", "x" * 300, " ", ""]


@pytest.fixture
def odd(tmp_path: Path, coco_dump: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """The current folder holds a dump and what is neither a file nor a folder."""
    coco_dump(tmp_path / "dump")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "circle").symlink_to("circle")
    (tmp_path / "file").touch()
    monkeypatch.chdir(tmp_path)


def step(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["steps", *arguments])
    return console.run_app(command_line, StepError, TrainerError)


@pytest.mark.parametrize("place", PLACES)
def test_what_is_no_dump(
    no_aws: None, odd: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], place: str
) -> None:
    # Of a pipe that somebody writes to, nothing is waited for.
    pipe = os.open("pipe", os.O_RDWR | os.O_NONBLOCK)
    try:
        assert step(monkeypatch, "fetch", f"--annotation-path={place}", "--dataset-dir=data") == 2
    finally:
        os.close(pipe)
    [line] = capsys.readouterr().err.splitlines()
    assert place in line


@pytest.mark.parametrize("place", NO_FOLDERS)
@pytest.mark.parametrize("name", ["fetch", "prepare"])
def test_what_can_be_no_folder(
    no_aws: None, odd: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], place: str, name: str
) -> None:
    before = sorted(os.listdir())
    more = ["--annotation-path=dump"] if name == "fetch" else []
    assert step(monkeypatch, name, *more, f"--dataset-dir={place}") == 2
    [line] = capsys.readouterr().err.splitlines()
    assert (place if place.strip() else "--dataset-dir") in line
    assert sorted(os.listdir()) == before


def test_refusal_of_each_step(no_aws: None, tmp_path: Path) -> None:
    absent = str(tmp_path / "absent")
    data, output = ["--dataset-dir", absent], ["--output-dir", absent]
    assert absent in refusal("fetch", "--annotation-path", absent, *data)
    assert absent in refusal("prepare", *data)
    assert absent in refusal("train", *data, *output)
    assert absent in refusal("evaluate", *data, *output)
    assert absent in refusal("upload", *output, "--output-path", "runs/1")


def test_steps_follow_each_other(
    bucket: str, put: Callable[[str, Path], None], coco_dump: Callable[..., Path], tmp_path: Path
) -> None:
    coco_dump(tmp_path / "dump")
    put("dump", tmp_path / "dump")
    dataset = str(tmp_path / "dataset")
    for arguments in (
        ["fetch", "--annotation-path", "dump", "--dataset-dir", dataset],
        ["prepare", "--dataset-dir", dataset],
        ["upload", "--output-dir", dataset, "--output-path", "runs/1"],
    ):
        done = run(*arguments)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout


def test_fetching_needs_no_torch(no_aws: None, coco_dump: Callable[..., Path], tmp_path: Path) -> None:
    coco_dump(tmp_path / "dump", images=1)
    program = """
import runpy, sys
try:
    runpy.run_module("steps", run_name="__main__")
finally:
    print(sorted({"torch", "torchvision", "matplotlib", "hera"} & set(sys.modules)))
"""
    fetch = ["--annotation-path", str(tmp_path / "dump"), "--dataset-dir", str(tmp_path / "dataset")]
    fetch += ["--hyperparameters", "lr: 0.1"]
    for arguments in (["--help"], fetch):
        command = [sys.executable, "-c", program, "fetch", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True)
        assert done.stdout.splitlines()[-1] == "[]"
    assert (tmp_path / "dataset" / "images" / "0000.png").is_file()


class TestParse:
    def test_full_command_line(self) -> None:
        name, arguments = parse(
            [
                "train", "--dataset-dir", "/data", "--output-dir=/output", "--model", "detr_tiny", "--epochs", "3",
                "--batch-size", "8", "--hyperparameters", "lr: 1e-4", "--checkpoint", "k", "--seed", "7",
                "--namespace", "n", "--bucket", "b", "--endpoint", "e", "--region", "r",
            ]
        )  # fmt: skip
        assert name == "train"
        assert arguments == {
            "dataset_dir": Path("/data"), "output_dir": Path("/output"), "model": "detr_tiny", "epochs": 3,
            "batch_size": 8, "hyperparameters": "lr: 1e-4", "checkpoint": "k", "seed": 7,
            "processes": None, "namespace": "n", "bucket": "b", "endpoint": "e", "region": "r",
        }  # fmt: skip

    def test_defaults_are_the_function_s(self) -> None:
        _, arguments = parse(["train", "--dataset-dir", "d", "--output-dir", "o", "--batch-size", "auto"])
        assert arguments["batch_size"] is None
        assert (arguments["epochs"], arguments["model"]) == (None, "auto")

    @pytest.mark.parametrize(
        "value",
        [
            "--looks-like-a-flag",
            "-x",
            " a  b ",
            "{{workflow.name}}",
            '{"lr": 1}',
            "lr: 1\nepochs: 2\n",
            "$HOME 'a'",
            "",
        ],
    )
    def test_value_arrives_as_it_is(self, value: str) -> None:
        where = ["--dataset-dir", "d", "--output-dir", "o"]
        for flags in (["--hyperparameters", value], [f"--hyperparameters={value}"]):
            assert parse(["train", *where, *flags])[1]["hyperparameters"] == value

    def test_mistakes(self) -> None:
        with refused("there is no step 'fetsh'", "fetch, prepare, remember, train, evaluate, upload"):
            parse(["fetsh"])
        with refused("--epochs", "whole number"):
            parse(["train", "--dataset-dir", "d", "--output-dir", "o", "--epochs", "abc"])
        with refused("--annotation-path"):
            parse(["fetch"])


def test_full_disk_is_one_line() -> None:
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    code = """
import typer
from steps.common.console import run_app

app = typer.Typer()

@app.command()
def fill() -> None:
    with open("/dev/full", "w") as file:
        file.write("x")

raise SystemExit(run_app(lambda: app, ValueError))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr == "error: a file cannot be opened or written (No space left on device)\n"
