"""Which version of the code runs."""

import importlib.metadata
import subprocess
from pathlib import Path


def revision() -> str:
    """Give the git commit of a checkout, with "-dirty" where files were changed since; else the installed version."""
    root = Path(__file__).parents[2]
    if (root / ".git").exists():
        command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--exclude=*", "--abbrev=12"]
        try:
            found = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
            return f"commit {found.stdout.strip()}"
        except (OSError, subprocess.SubprocessError):
            pass  # No git here, or a checkout of another user.
    try:
        return f"cvat-detr {importlib.metadata.version('cvat-detr')}"
    except importlib.metadata.PackageNotFoundError:
        return ""
