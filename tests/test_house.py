"""The house rules: which package may know which, and what each costs to import."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).parent.parent
FORBIDDEN = {
    "pipelines": {"torch", "torchvision", "trainer"},
    "steps": {"hera", "kubernetes", "pipelines"},
    "trainer": {"boto3", "hera", "kubernetes", "obstore", "pipelines", "steps"},
}


def imported_packages(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import hides its package"
            names.add(str(node.module))
    return {name.partition(".")[0] for name in names}


@pytest.mark.parametrize("package", FORBIDDEN)
def test_arrows_go_one_way(package: str) -> None:
    files = sorted((PROJECT / package).rglob("*.py"))
    assert files
    found = {path.name: sorted(imported_packages(path) & FORBIDDEN[package]) for path in files}
    assert not {name: packages for name, packages in found.items() if packages}


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("pipelines.cli", ["torch", "trainer.training.train"]),
        ("pipelines.workflow.compile", ["torch", "trainer.training.train"]),
        ("steps.cli", ["torch", "hera", "matplotlib", "scipy"]),
        ("trainer.config", ["torch"]),
    ],
)
def test_importing_brings_no_more_than_it_needs(module: str, absent: list[str]) -> None:
    code = f"import sys, {module}; print([name for name in {absent!r} if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
