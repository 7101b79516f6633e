"""Nothing outside the dataset's folder is opened: paths that a dump names, and links in it."""

import os
import re
from pathlib import Path, PurePath

from steps.common.budgets import DEEPEST
from steps.common.errors import StepError
from steps.common.messages import printable
from steps.dataset.layout import LOST_AND_FOUND


def path_parts(path: str | PurePath) -> tuple[str, ...]:
    """Split a path as a dump writes it, on any system, into its folders and its file; `..` stays."""
    written = path.as_posix() if isinstance(path, PurePath) else path
    return tuple(part for part in re.split(r"[\\/]+", written) if part not in ("", "."))


def path_inside(name: str) -> tuple[str, ...]:
    """Give the `path_parts` of a name, with each `..` followed.

    Raises:
        StepError: it leads out of the folder it starts from.
    """
    parts: list[str] = []
    for part in path_parts(name):
        if part != "..":
            parts.append(part)
        elif parts:
            parts.pop()
        else:
            raise StepError(
                f"the dump names the file '{printable(name)}', which is outside its folder: name it by its "
                "path in the dump"
            )
    return tuple(parts)


def refuse_ways_out(folder: Path) -> None:
    """Make sure that whatever is opened below `folder` lies there and is a file.

    Raises:
        StepError: there is a link that leads out of it, what is neither a file nor a folder, or a folder that
            cannot be read.
    """
    inside = os.path.realpath(folder) + os.sep
    pending = [str(folder)]
    while pending:
        name = os.path.relpath(path := pending.pop(), folder)
        try:
            entries = os.scandir(path)
        except PermissionError:
            if name == LOST_AND_FOUND:
                continue
            raise StepError(
                f"{folder}: the folder '{printable(name)}' cannot be read: change its permissions"
            ) from None
        if name.count(os.sep) >= DEEPEST:
            entries.close()
            raise StepError(f"{folder}: the folder '{printable(name)}' lies too deep: move it up, or remove it")
        with entries:
            for entry in entries:
                if not entry.is_symlink():
                    if entry.is_dir():
                        pending.append(entry.path)
                        continue
                    flaw = "" if entry.is_file() else "neither a file nor a folder"
                elif not (target := os.path.realpath(entry.path)).startswith(inside):
                    flaw = "a link that leads out of the folder"
                else:
                    flaw = "" if os.path.exists(target) else "a link that leads nowhere"
                if flaw:
                    name = printable(os.path.relpath(entry.path, folder))
                    raise StepError(f"{folder}: '{name}' is {flaw}: remove it, or replace it by what it stands for")
