"""Check manifests as their consumers will; whose a manifest is shows in its content."""

import shutil
import subprocess
from pathlib import Path

from pipelines.manifest.argo_rules import lint_argo, lint_restricted
from pipelines.manifest.onepanel_rules import lint_onepanel
from pipelines.manifest.reader import read_yaml


def lint(path: Path, *, restricted: bool = False) -> list[str]:
    """List what the consumer of a manifest would refuse.

    Args:
        path: the manifest.
        restricted: whether that is a namespace of Argo's that enforces Pod Security "restricted".

    Raises:
        PipelineError: the file is not there or not YAML.
    """
    document = read_yaml(path)
    if not isinstance(document, dict):
        return ["expected a YAML mapping"]
    if "kind" in document:
        problems = lint_argo(document)
        if restricted and not problems:
            problems = lint_restricted(document)
        return [*problems, *(_argo_cli(path) if document["kind"] != "List" else [])]
    return lint_onepanel(document)


def _argo_cli(path: Path) -> list[str]:
    """Ask `argo lint`, where the argo CLI is installed."""
    if shutil.which("argo") is None:
        return []
    result = subprocess.run(["argo", "lint", "--offline", "--output=simple", str(path)], capture_output=True, text=True)  # noqa: S607
    return [] if result.returncode == 0 else (result.stdout + result.stderr).strip().splitlines()
