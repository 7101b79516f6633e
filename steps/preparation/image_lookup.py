"""Which file of the dump an image's name means."""

import os
import re
from collections import defaultdict
from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path

import numpy as np

from steps.common.budgets import DEEPEST
from steps.common.errors import StepError
from steps.common.messages import printable, some
from steps.dataset.containment import path_inside
from steps.dataset.layout import EMBEDDED, FOREIGN_FOLDERS
from steps.dataset.lookup import IMAGE_SUFFIXES, files_below, normalized
from steps.dataset.model import Dataset

_ANNOTATIONS = {".csv", ".json", ".txt", ".xml", ".yaml", ".yml"}


def image_files(root: Path) -> list[str]:
    """Give the paths in `root` of its image files, sorted; hidden ones do not belong to the dump."""
    found: list[str] = []
    pending = [""]
    while pending:
        folder = pending.pop()
        with os.scandir(root / folder) as entries:
            for entry in entries:
                name = folder + entry.name
                if entry.name.startswith(".") or name == EMBEDDED:
                    continue
                if entry.is_dir():
                    # What a link leads to is found where it lies.
                    if entry.name not in FOREIGN_FOLDERS and not entry.is_symlink():
                        pending.append(f"{name}/")
                elif os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES:
                    found.append(name)
    return sorted(found)


def find_images(dataset: Dataset, there: Sequence[str], max_lost: int) -> list[str | None]:
    """Give the file in the dataset's folder that each image means, or None where it is missing.

    The exact places come first: below `images/<subset>`, `images`, and the folder itself. Else it is the file that
    shares the longest tail of folders and name, because exporters write paths of their own machine; upper and lower
    case and the Unicode form count only where more than one file is left.

    Args:
        dataset: names and subsets of the images.
        there: the files that there are, as `image_files` gives them.
        max_lost: percent of the listed images, of the files, and of the objects that may have no counterpart.

    Raises:
        StepError: a name leads out of the folder or can be several files, two names mean the same file, or more than
            `max_lost` are lost.
    """
    there = [file for file in there if file not in dataset.masks]
    # Which JSON could not name.
    nameless = [file for file in there if not file.isascii() and not _is_text(file)]
    dataset.findings.note_all("skipped", "image whose name is not UTF-8", nameless, len(nameless))
    exact = set(there).difference(nameless)
    tails = _Tails(sorted(exact))
    found: list[str | None] = []
    sure: dict[int, str] = {}
    for index, (name, subset) in enumerate(zip(dataset.names, dataset.subsets, strict=True)):
        file = dataset.files.get(index)
        if file is None and ".." not in name:
            for place in (f"images/{subset}/{name}", f"images/{name}", name):
                if place in exact:
                    file = place
                    sure[index] = place
                    break
        if file is None:
            file = _search(dataset, index, tails)
        found.append(file)
    _refuse_names_of_one_file(dataset, found, sure)
    unlisted = sorted(exact - set(found))
    if unlisted:
        # Listed files may be links to these.
        used = {os.path.realpath(dataset.root / file) for file in found if file is not None}
        unlisted = [file for file in unlisted if os.path.realpath(dataset.root / file) not in used]
    absent = [name for name, file in zip(dataset.names, found, strict=True) if file is None]
    _refuse_losses(dataset, found, absent, unlisted, len(there), max_lost)
    dataset.findings.note_all("dropped", "image listed but missing", absent, len(absent))
    dataset.findings.note_all("skipped", "image that no annotation file lists", unlisted, len(unlisted))
    return found


def _search(dataset: Dataset, index: int, tails: "_Tails") -> str | None:
    name = dataset.names[index]
    parts = path_inside(name)
    candidates = tails.find(parts) if parts else []
    if len(candidates) > 1:
        written = _form("/".join(parts))
        places = (_form(f"images/{dataset.subsets[index]}/") + written, f"images/{written}", written)
        alike = [_alike(parts, file) for file in candidates]
        candidates = [file for file, count in zip(candidates, alike, strict=True) if count == max(alike)]
        candidates = [file for place in places for file in candidates if _form(file) == place][:1] or candidates
    if len(candidates) > 1:
        raise StepError(
            f"{_source(dataset, index)}: '{printable(name)}' can be {some(candidates)} below {dataset.root}: "
            "name it by its folder"
        )
    if not candidates:
        return None
    for what in _differences(name, parts, candidates[0]):
        dataset.findings.note("repaired", what, name)
    return candidates[0]


def _alike(parts: Sequence[str], file: str) -> int:
    """How many of the last parts are the same to the letter."""
    pairs = zip(reversed(parts), reversed(file.split("/")), strict=False)
    return sum(1 for _ in takewhile(lambda pair: _form(pair[0]) == _form(pair[1]), pairs))


def _differences(name: str, parts: Sequence[str], file: str) -> list[str]:
    """Say in which ways a name differs from the file that it means."""
    base, tail = file.rpartition("/")[2], file.split("/")[-len(parts) :]
    foreign = name.startswith(("/", "\\")) or name[1:2] == ":"
    differences = ["name that is a path on another machine"] if foreign else []
    if "\\" in name and not foreign:
        differences.append("name with backslashes")
    if list(parts)[-len(tail) :] == tail or parts[-1] == base:
        return differences
    if _form(parts[-1]) == _form(base):
        differences.append("name whose Unicode form differs from the file's")
    elif _folded(parts[-1]) == _folded(base):
        differences.append("name whose case differs from the file's")
    return differences


class _Tails:
    """Files by every tail of their paths, without regard to case and Unicode form, with and without suffix."""

    def __init__(self, files: Sequence[str]) -> None:
        self._files = files
        self._by_tail: dict[str, list[str]] | None = None

    def find(self, parts: Sequence[str]) -> list[str]:
        """Give the files that share the longest tail with a path."""
        if self._by_tail is None:
            self._by_tail = self._index()
        folded = [_folded(part) for part in parts[-DEEPEST:]]
        for start in range(len(folded)):
            if found := self._by_tail.get("/".join(folded[start:])):
                return found
        return []

    def _index(self) -> dict[str, list[str]]:
        by_tail: dict[str, list[str]] = defaultdict(list)
        for file in self._files:
            folded = _folded(file)
            for whole in (folded, os.path.splitext(folded)[0]):
                tail = whole
                while tail:
                    by_tail[tail].append(file)
                    tail = tail.partition("/")[2]
        return dict(by_tail)


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _form(name: str) -> str:
    return normalized(name)


def _folded(name: str) -> str:
    return name.lower() if name.isascii() else _form(_form(name).casefold())


def _refuse_names_of_one_file(dataset: Dataset, found: list[str | None], sure: dict[int, str]) -> None:
    """Refuse names that differ and lead to one file; where one is its very path (`sure`), the others are absent."""
    named = {file: index for index, file in sure.items()}
    known = set(named)
    for index, file in enumerate(found):
        if file is None or index in sure:
            continue
        first = named.setdefault(file, index)
        if first == index or _same(dataset, first, index):
            continue
        if file in known:
            found[index] = None
            continue
        raise StepError(
            f"{_source(dataset, index)}: '{printable(dataset.names[first])}' and '{printable(dataset.names[index])}' "
            f"both lead to {dataset.root / file}, the only image of that name: dump the task again with its folders"
        )


def _same(dataset: Dataset, one: int, other: int) -> bool:
    """Tell whether two images that lead to one file may well be one: other annotation files start elsewhere."""
    if dataset.names[one] == dataset.names[other]:
        return True
    a, b = (path_inside(_folded(dataset.names[index])) for index in (one, other))
    length = max(len(a), len(b)) if dataset.sources[one] == dataset.sources[other] else min(len(a), len(b))
    return [_stem(part) for part in a[-length:]] == [_stem(part) for part in b[-length:]]


def _stem(part: str) -> str:
    stem, suffix = os.path.splitext(part)
    return stem if suffix in IMAGE_SUFFIXES else part


def _refuse_losses(
    dataset: Dataset,
    found: Sequence[str | None],
    absent: Sequence[str],
    unlisted: Sequence[str],
    there: int,
    max_lost: int,
) -> None:
    """Refuse a dump of which too much has no counterpart: what is left may well be paired wrongly."""
    remedy = f"or give --max-lost 100 to go on without (now {max_lost} percent)"
    if 100 * len(absent) > max_lost * len(found):
        raise StepError(
            f"{len(absent)} of the {len(found)} images of {dataset} are missing ({some(absent)}): "
            f"{_how_to_bring(dataset.root, absent, there)}, {remedy}"
        )
    if 100 * len(unlisted) > max_lost * there:
        raise StepError(
            f"{len(unlisted)} of the {there} images in {dataset.root} are in no annotation file ({some(unlisted)}): "
            f"dump the task again with all its annotations, {remedy}"
        )
    image = dataset.boxes().image
    without = int((~np.array([file is not None for file in found])[image]).sum())
    if 100 * without > max_lost * len(image):
        raise StepError(
            f"{without} of the {len(image)} boxes of {dataset} are on images that are missing ({some(absent)}): "
            f"{_how_to_bring(dataset.root, absent, there)}, {remedy}"
        )
    if 100 * dataset.lost_objects > max_lost * (len(image) + dataset.lost_objects):
        raise StepError(
            f"{dataset} has {len(image)} boxes, and shows {dataset.lost_objects} groups of objects without what their "
            f"boxes need: dump the task as 'COCO 1.0' or 'CVAT for images 1.1', {remedy}"
        )


def _how_to_bring(root: Path, absent: Sequence[str], there: int) -> str:
    """Say why images are missing, and what helps."""
    stem = os.path.splitext(re.split(r"[\\/]", absent[0])[-1])[0]
    others = files_below(root, lambda name: os.path.splitext(name)[0] == stem)
    unread = [path for path in others if path.suffix.lower() not in IMAGE_SUFFIXES | _ANNOTATIONS]
    if unread:
        name, suffix = printable(unread[0].relative_to(root).as_posix()), printable(unread[0].suffix)
        return f"{name} is there, but {suffix} files are not read: convert the images to JPEG or PNG"
    return "dump the task again with its images" if there else "tick 'Save images' when dumping"


def _source(dataset: Dataset, index: int) -> str:
    """Name the annotation file that lists an image."""
    names = dataset.source_names
    return str(dataset.root / names[dataset.sources[index]] if names else dataset.root)
