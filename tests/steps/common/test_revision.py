"""Which code runs, in a checkout, in a pod without git, and in an image."""

import subprocess
from pathlib import Path

import pytest

from steps.common.revision import revision

GIT = ["git", "-c", "user.name=a", "-c", "user.email=a@example.com"]


@pytest.mark.parametrize("detached", [False, True])
def test_a_pod_without_git_knows_its_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, detached: bool) -> None:
    subprocess.run([*GIT, "init", "-q", str(tmp_path)], check=True)
    subprocess.run([*GIT, "-C", str(tmp_path), "commit", "-q", "--allow-empty", "-m", "x"], check=True)
    if detached:
        subprocess.run([*GIT, "-C", str(tmp_path), "checkout", "-q", "--detach"], check=True)
    with_git = revision(tmp_path)
    monkeypatch.setenv("PATH", "")
    assert revision(tmp_path) == with_git
    assert with_git.startswith("commit ")


def test_an_image_says_what_it_was_built_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CVAT_DETR_REVISION", "0123456789abcdef")
    assert revision(tmp_path) == "commit 0123456789ab"
