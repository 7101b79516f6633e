"""Files of a dump, found by looking: a name that a dump gives is matched against these and never opened itself."""

from __future__ import annotations

import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable
from itertools import takewhile
from pathlib import Path, PurePath, PurePosixPath

IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm", ".jp2"}
_FOREIGN = re.compile(r"[\\/]|[A-Za-z]:[\\/]")


def files_below(root: Path, wanted: Callable[[str], bool]) -> list[Path]:
    """List the files below `root` whose base name is `wanted`, in the order of their paths.

    Hidden files and folders, what macOS adds to archives, and links are passed over.
    """
    found: list[Path] = []
    folders = [str(root)]
    while folders:
        with os.scandir(folders.pop()) as entries:
            for entry in entries:
                name = entry.name
                if name.startswith(".") or name == "__MACOSX" or entry.is_symlink():
                    continue
                if entry.is_dir():
                    folders.append(entry.path)
                elif wanted(name) and entry.is_file():
                    found.append(Path(entry.path))
    return sorted(found)


def is_image(name: str) -> bool:
    """Whether the name's suffix is an image's."""
    return os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES


def join(folder: Path | str, name: str) -> str:
    """Put a folder of the dump before an image's name, unless the name leads elsewhere: then it stays as it is."""
    if _FOREIGN.match(name) or ".." in re.split(r"[\\/]", name):
        return name
    return (PurePosixPath(Path(folder).as_posix()) / name.replace("\\", "/")).as_posix()


def split_suffix(name: str) -> tuple[str, str]:
    """Part an image's suffix from its name; other dots are the name's own."""
    stem, suffix = os.path.splitext(name)
    return (stem, suffix) if suffix.lower() in IMAGE_SUFFIXES else (name, "")


class Stems:
    """Files by their names without suffix, for formats whose annotations name images that way."""

    def __init__(self, root: Path, paths: Iterable[Path]) -> None:
        self._by_stem: dict[str, list[tuple[tuple[str, ...], Path]]] = defaultdict(list)
        for path in paths:
            parts = parts_of(path.relative_to(root).with_suffix(""))
            self._by_stem[parts[-1]].append((parts, path))

    def exact(self, name: str) -> Path | None:
        """The file whose path from the root, without suffix, is `name`."""
        wanted = parts_of(name)
        candidates = self._by_stem.get(wanted[-1], []) if wanted else []
        return next((path for parts, path in candidates if parts == wanted), None)

    def find(self, name: str) -> Path | None:
        """The file that `name`, given without suffix, means.

        An exact path from the root comes first, else the one file that shares most of the name's last parts;
        None where there is none, or more than one.
        """
        wanted = parts_of(name)
        if not wanted:
            return None
        candidates = self._by_stem.get(wanted[-1], [])
        best: list[Path] = []
        most = 0
        for parts, path in candidates:
            if parts == wanted:
                return path
            pairs = zip(reversed(parts), reversed(wanted), strict=False)
            shared = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
            if shared > most:
                best, most = [], shared
            if shared == most:
                best.append(path)
        return best[0] if len(best) == 1 else None


def parts_of(path: str | PurePath) -> tuple[str, ...]:
    """Parts of a path, in the one Unicode form: archives and file systems change it."""
    text = path.as_posix() if isinstance(path, PurePath) else path
    return tuple(part for part in re.split(r"[\\/]+", unicodedata.normalize("NFC", text)) if part not in ("", "."))
