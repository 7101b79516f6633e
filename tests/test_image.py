"""The Dockerfile and the locks: linted, complete, and built without Docker as Docker would."""

import importlib.metadata
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from pipelines.workflow.options import Options

PROJECT = Path(__file__).parent.parent
DOCKERFILE = (PROJECT / "Dockerfile").read_text(encoding="utf-8")
ROOT = "/opt/cvat-detr"
EXTRAS = {"steps": ("", "cvat"), "train": ("", "cvat", "train", "hf")}


def instructions() -> Iterator[tuple[str, str, str]]:
    """The Dockerfile's instructions: stage, word, rest."""
    stage = ""
    for line in DOCKERFILE.replace("\\\n", " ").splitlines():
        word, _, rest = line.partition(" ")
        if word == "FROM":
            stage = rest.split(" AS ")[1]
        if line and not line.startswith("#"):
            yield stage, word, rest


def test_the_linter_has_nothing_to_say() -> None:
    hadolint = shutil.which("hadolint", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if hadolint is None:
        pytest.skip("hadolint is not installed")
    done = subprocess.run([hadolint, "Dockerfile"], cwd=PROJECT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


def test_the_images_are_made_from_those_that_pods_run_without_them() -> None:
    defaults = dict(rest.split("=", 1) for _, word, rest in instructions() if word == "ARG")
    assert defaults["STEPS_BASE"] == Options().base_image
    assert defaults["TRAIN_BASE"] == Options().train_image


@pytest.mark.parametrize("target", EXTRAS)
def test_the_user_is_a_number_and_not_root(target: str) -> None:
    last = [(word, rest) for stage, word, rest in instructions() if stage == target]
    assert ("USER", "1000:1000") in last
    assert not any(word in ("RUN", "ADD") for word, _ in last), "what a build leaves behind stays in its own stage"


@pytest.mark.parametrize("target", EXTRAS)
def test_the_locks_have_all_that_the_project_asks_for(target: str) -> None:
    """Else `make lock` has been forgotten."""
    lock = (PROJECT / "requirements" / f"{target}.txt").read_text(encoding="utf-8")
    locked: dict[str, list[str]] = {}
    for name, version in re.findall(r"^([\w.-]+)==([^\s;]+)", lock, re.M):
        locked.setdefault(name, []).append(version)
    asked = [Requirement(each) for each in importlib.metadata.requires("cvat-detr") or []]
    wanted = [
        each for each in asked if any(not each.marker or each.marker.evaluate({"extra": e}) for e in EXTRAS[target])
    ]
    assert wanted
    for each in wanted:
        if each.name not in ("torch", "torchvision"):
            assert all(each.specifier.contains(version) for version in locked.get(each.name, ["0"])), each
    assert not {"torch", "torchvision"} & locked.keys()
    # An address, or a host, would be that of whoever made the lock.
    assert "://" not in lock
    assert "--index" not in lock


def build(target: str, folder: Path) -> dict[str, str]:
    """Do what the Dockerfile says for a target, below `folder`; return the image's environment."""

    def inside(stage: str, path: str) -> Path:
        return folder / stage / path.lstrip("/")

    environment: dict[str, str] = {}
    for stage, word, rest in instructions():
        if stage not in (target, f"{target}-packages"):
            continue
        if word == "COPY":
            *flags, source, destination = shlex.split(rest)
            at = inside(flags[0].removeprefix("--from="), source) if flags else PROJECT / source
            to = inside(stage, destination)
            to.parent.mkdir(parents=True, exist_ok=True)
            if at.is_dir():
                shutil.copytree(at, to, ignore=shutil.ignore_patterns("__pycache__") if not flags else None)
            else:
                shutil.copy(at, to)
        elif word == "RUN":
            words = [str(inside(stage, each)) if each.startswith("/") else each for each in shlex.split(rest)]
            subprocess.run([sys.executable, *words[1:]], check=True)
        elif word == "ENV":
            given = dict(each.split("=", 1) for each in shlex.split(rest))
            environment |= {name: value.replace(ROOT, str(inside(stage, ROOT))) for name, value in given.items()}
    return environment


def only_pytorch(folder: Path) -> Path:
    """A folder with PyTorch and what it needs, which the base image has, and nothing else of this environment."""
    folder.mkdir()
    names, seen = ["torch", "torchvision"], set[str]()
    while names:
        name = names.pop()
        try:
            distribution = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        if name in seen:
            continue
        seen.add(name)
        names += [r.name for r in map(Requirement, distribution.requires or []) if not r.marker or r.marker.evaluate()]
        for top in {path.parts[0] for path in distribution.files or [] if path.parts[0] not in ("..", "__pycache__")}:
            if not (folder / top).exists():
                (folder / top).symlink_to(Path(str(distribution.locate_file(top))))
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("target", EXTRAS)
def test_what_the_dockerfile_builds_runs_the_steps(target: str, tmp_path: Path) -> None:
    environment = build(target, tmp_path / "image")
    # A Python with nothing installed, as in the base image.
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "bare")], check=True)
    if target == "train":
        environment["PYTHONPATH"] += f"{os.pathsep}{only_pytorch(tmp_path / 'base')}"
    python = str(tmp_path / "bare" / "bin" / "python")
    run = {"env": {"PATH": os.environ["PATH"], **environment, "HOME": str(tmp_path)}, "cwd": tmp_path}
    for step in ("fetch", "prepare", "train", "evaluate", "upload"):
        subprocess.run([python, "-m", "steps", step, "--help"], check=True, stdout=subprocess.DEVNULL, **run)
    imports = "import boto3, cvat_sdk, obstore, pycurl, numpy, PIL"
    if target == "train":
        imports += ", steps.report.charts, trainer.training.train, transformers, timm, tensorboard.main, hotcoco"
    subprocess.run([python, "-c", imports], check=True, **run)
    assert not list((tmp_path / "image" / target).rglob("requirements.txt"))
