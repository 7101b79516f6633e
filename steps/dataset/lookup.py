"""Files of a dump, found by looking: a name that a dump gives is matched against these and never opened itself."""

from __future__ import annotations

import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable
from itertools import takewhile
from pathlib import Path, PurePath, PurePosixPath

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
        self._by_stem: dict[str, list[tuple[tuple[str, ...], Path]]] = defaultdict(list)
        for path in paths:
            parts = normalized_parts(path.relative_to(root).with_suffix(""))
            self._by_stem[parts[-1]].append((parts, path))

    def exact(self, name: str) -> Path | None:
        """The one file whose path from the root is `name`, given with or without its suffix."""
        found = [path for parts, path in self._candidates(name) if parts == normalized_parts(split_suffix(name)[0])]
        return found[0] if len(found) == 1 else None

    def find(self, name: str) -> Path | None:
        """As `exact`, or else the one file that shares most of the last parts of the name's path."""
        if (found := self.exact(name)) is not None:
            return found
        wanted = normalized_parts(split_suffix(name)[0])
        shared = [(_shared(parts, wanted), path) for parts, path in self._candidates(name)]
        most = max((count for count, _ in shared), default=0)
        best = [path for count, path in shared if count == most]
        return best[0] if len(best) == 1 else None

    def _candidates(self, name: str) -> list[tuple[tuple[str, ...], Path]]:
        stem, suffix = split_suffix(name)
        parts = normalized_parts(stem)
        found = self._by_stem.get(parts[-1], []) if parts else []
        return [(parts, path) for parts, path in found if suffix.lower() in ("", path.suffix.lower())]


def _shared(one: tuple[str, ...], other: tuple[str, ...]) -> int:
    """How many parts two paths share at their ends."""
    pairs = zip(reversed(one), reversed(other), strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


def normalized_parts(path: str | PurePath) -> tuple[str, ...]:
    """Give a path's parts in the one Unicode form: archives and file systems change it."""
    text = path.as_posix() if isinstance(path, PurePath) else path
    return path_parts(unicodedata.normalize("NFC", text))
