"""What lies in a folder, to compare it before and after."""

from __future__ import annotations

from pathlib import Path

from steps.dump.target import STATE_DIR


def tree(folder: Path) -> dict[str, bytes]:
    """The files of a folder, without the fetch step's own."""
    named = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    return {name: path.read_bytes() for name, path in named.items() if not name.startswith(f"{STATE_DIR}/")}


def changed_at(folder: Path) -> dict[str, int]:
    """When each of them was written."""
    return {name: (folder / name).stat().st_mtime_ns for name in tree(folder)}
