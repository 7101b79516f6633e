"""Which version of the code runs."""

import importlib.metadata
import os
import subprocess
from pathlib import Path

VARIABLE = "CVAT_DETR_REVISION"
"""Set in an image: the commit that it was built from."""


def revision(root: Path = Path(__file__).parents[2]) -> str:
    """Give the git commit of the code, with "-dirty" where files were changed since; else the installed version."""
    if given := os.environ.get(VARIABLE):
        return f"commit {given[:12]}"
    if (root / ".git").exists():
        command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--exclude=*", "--abbrev=12"]
        try:
            found = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
            return f"commit {found.stdout.strip()}"
        except (OSError, subprocess.SubprocessError):
            # No git here, as in a pod, or a checkout of another user.
            if commit := _checked_out(root / ".git"):
                return f"commit {commit[:12]}"
    try:
        return f"cvat-detr {importlib.metadata.version('cvat-detr')}"
    except importlib.metadata.PackageNotFoundError:
        return ""


def _checked_out(git: Path) -> str:
    """Read from git's files which commit is checked out; empty if they do not say."""
    try:
        head = (git / "HEAD").read_text(encoding="utf-8").strip()
        return (git / head.removeprefix("ref: ")).read_text(encoding="utf-8").strip() if "ref: " in head else head
    except (OSError, UnicodeDecodeError):
        return ""
