"""Files of a dump, found by looking: a name that a dump gives is matched against these and never opened itself."""

from __future__ import annotations

import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path, PurePath, PurePosixPath

from steps.common.budgets import DEEPEST, LONGEST_PATH
from steps.dataset.containment import path_parts
from steps.dataset.layout import FOREIGN_FOLDERS

IMAGE_SUFFIXES = {
    ".bmp", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp",
}  # fmt: skip
"""Of the formats that are read, `trainer.data.image_file.FORMATS`."""
_FOREIGN = re.compile(r"[\\/]|[A-Za-z]:[\\/]")


def files_below(root: Path, wanted: Callable[[str], bool]) -> list[Path]:
    """List the files below `root` whose base name is `wanted`, in the order of their paths as text.

    Hidden files and folders, what macOS adds to archives, and links are passed over.
    """
    found: list[str] = []
    folders = [str(root)]
    while folders:
        with os.scandir(folders.pop()) as entries:
            for entry in entries:
                name = entry.name
                if name.startswith(".") or name in FOREIGN_FOLDERS or entry.is_symlink():
                    continue
                if entry.is_dir():
                    folders.append(entry.path)
                elif wanted(name) and entry.is_file():
                    found.append(entry.path)
    return [Path(path) for path in sorted(found)]


def is_image(name: str) -> bool:
    """Whether the name's suffix is an image's."""
    return os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES


def join(folder: PurePath | str, name: str) -> str:
    """Put a folder of the dump before an image's name, unless the name leads elsewhere: then it stays as it is."""
    if _FOREIGN.match(name) or ".." in re.split(r"[\\/]", name):
        return name
    return (PurePosixPath(PurePath(folder).as_posix()) / name.replace("\\", "/")).as_posix()


def split_suffix(name: str) -> tuple[str, str]:
    """Part an image's suffix from its name; other dots are the name's own."""
    stem, suffix = os.path.splitext(name)
    return (stem, suffix) if suffix.lower() in IMAGE_SUFFIXES else (name, "")


class Stems:
    """Files by their names without suffix, for formats whose annotations name images that way."""

    def __init__(self, root: Path, paths: Iterable[Path]) -> None:
        # Two of each are as many as any: the name can be several files.
        self._by_path: dict[tuple[tuple[str, ...], str], list[Path]] = defaultdict(list)
        self._by_tail: dict[tuple[tuple[str, ...], str], list[Path]] = defaultdict(list)
        for path in paths:
            parts = normalized_parts(path.relative_to(root).with_suffix(""))
            for suffix in ("", path.suffix.lower()):
                self._by_path[parts, suffix].append(path)
                for start in range(len(parts)):
                    if len(found := self._by_tail[parts[start:], suffix]) < 2:
                        found.append(path)

    def exact(self, name: str) -> Path | None:
        """The one file whose path from the root is `name`, given with or without its suffix."""
        stem, suffix = split_suffix(name)
        found = self._by_path.get((normalized_parts(stem), suffix.lower()), [])
        return found[0] if len(found) == 1 else None

    def find(self, name: str) -> Path | None:
        """As `exact`, or else the one file that shares most of the last parts of the name's path."""
        if (found := self.exact(name)) is not None:
            return found
        stem, suffix = split_suffix(name)
        wanted = normalized_parts(stem)[-DEEPEST:]
        for start in range(len(wanted)):
            if best := self._by_tail.get((wanted[start:], suffix.lower())):
                return best[0] if len(best) == 1 else None
        return None


def normalized_parts(path: str | PurePath) -> tuple[str, ...]:
    """Give a path's parts in the one Unicode form: archives and file systems change it."""
    return path_parts(normalized(path.as_posix() if isinstance(path, PurePath) else path))


def normalized(name: str) -> str:
    """Give a name in the one Unicode form; one that no file can have stays: its marks may take forever to sort."""
    return name if name.isascii() or len(name) > LONGEST_PATH else unicodedata.normalize("NFC", name)
