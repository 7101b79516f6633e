"""YOLO: Darknet's layout as "YOLO 1.1" (`obj.data`, `obj.names`, lists), and that of Ultralytics (`data.yaml`).

A label file holds an object a line: the class's number, then the centre and size of its box, or the corners of an
oriented box or polygon, all in fractions of the image. Names and lists are looked up among the files there are.
Sources: github.com/AlexeyAB/darknet#how-to-train-to-detect-your-custom-objects, docs.ultralytics.com/datasets/detect.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any

import yaml

from steps.common.budgets import DEEPEST, DEEPEST_ELEMENTS, LARGEST_CONFIG
from steps.common.errors import StepError
from steps.common.numbers import to_int
from steps.dataset.lookup import Stems, files_below, is_image, join, normalized_parts, split_suffix
from steps.dataset.model import Dataset
from steps.formats import text
from steps.formats.objects import NO_CATEGORY
from steps.formats.shapes import LAST_PIXEL, Box, around_points
from trainer.data.image_file import ImageError, open_image

TAG = "cvat_yolo"
TITLE = "YOLO 1.1"

_RESERVED = {"classes", "names", "backup"}
_SUBSETS = {"train", "training", "val", "valid", "validation", "test", "testing"}
_NAMES_KEY = re.compile(rb"^(?:\xef\xbb\xbf)?names\s*:", re.MULTILINE)
_SETTINGS = {"path", "names", "nc", "kpt_shape", "flip_idx", "download", "channels"}
"""What `data.yaml` holds beside its subsets."""
_FOUR_CORNERS = 8
_WRITTEN = 1e-6
"""Of an image's side: how exactly CVAT writes a coordinate."""


def recognise(root: Path) -> list[Path]:
    """Give `obj.data` and `obj.names`, or Ultralytics' `data.yaml`, wherever they lie."""
    return _darknet(root) or _ultralytics(root)


def read(root: Path, dataset: Dataset) -> None:
    """Read a dump in either layout.

    A class number that has no name drops its box. An image without a label file has no objects.

    Raises:
        StepError: no names, a name or line that cannot be read, a line with another count of fields.
    """
    if found := _darknet(root):
        for folder in sorted({path.parent for path in found}):
            _read_darknet(folder, dataset)
        return
    configs = _ultralytics(root)
    if not configs:
        raise StepError(f"{root} holds neither obj.names nor data.yaml: dump the task as 'YOLO 1.1'")
    for config in configs:
        _read_ultralytics(config, dataset)


def _darknet(root: Path) -> list[Path]:
    return files_below(root, lambda name: name in ("obj.data", "obj.names"))


def _ultralytics(root: Path) -> list[Path]:
    return [
        path
        for path in files_below(root, lambda name: name.lower().endswith((".yaml", ".yml")))
        if path.stat().st_size <= LARGEST_CONFIG and _NAMES_KEY.search(path.read_bytes())
    ]


def _read_darknet(folder: Path, dataset: Dataset) -> None:
    root = dataset.root
    here = {path.name: path for path in folder.iterdir() if path.is_file() and not path.is_symlink()}
    config = dict(_settings(here["obj.data"])) if "obj.data" in here else {}
    names = here.get(_base_name(config.get("names", "")), here.get("obj.names"))
    if names is None:
        raise StepError(f"{folder / 'obj.names'} is missing, so classes have no names: dump the task again")
    categories = _names(names, dataset)

    text_files = files_below(folder, lambda name: name.lower().endswith(".txt"))
    label_files = [path for path in text_files if path.parent != folder]
    labels = Stems(root, label_files)
    used: set[Path] = set()
    by_folder: dict[str, list[str]] = defaultdict(list)
    for path in label_files:
        inside = path.relative_to(folder)
        by_folder[inside.parts[0]].append(inside.with_suffix("").as_posix())
    place = folder.relative_to(root)
    for subset, listed in _subsets(config, here):
        if listed is None:
            # The list is gone; the label files tell as much.
            dataset.findings.note("repaired", "missing list of images, taken from its label files", subset)
            images = by_folder[f"obj_{subset}_data"]
        else:
            dataset.begin(listed)
            images = [name.replace("\\", "/").removeprefix("data/") for _, name in text.lines(listed)]
        for name in images:
            image = dataset.image(join(place, name), subset=subset)
            label_file = labels.find(join(place, split_suffix(name)[0]))
            if label_file is None:
                dataset.findings.note("repaired", "image without a label file, taken as having no objects", name)
            elif label_file in used:
                dataset.findings.note("skipped", "image listed twice", name)
            else:
                used.add(label_file)
                _read_labels(label_file, image, categories, dataset)
    unused = [path.relative_to(root).as_posix() for path in label_files if path not in used]
    dataset.findings.note_all("skipped", "label file of an unlisted image", unused, len(unused))


def _settings(path: Path) -> Iterator[tuple[str, str]]:
    for number, line in text.lines(path):
        name, equals, value = line.partition("=")
        if not equals:
            raise StepError(
                f"{path}, line {number}: {text.shown(line)} is not 'name = value': correct it, or dump the task again"
            )
        yield name.strip(), value.strip()


def _subsets(config: Mapping[str, str], here: Mapping[str, Path]) -> Iterator[tuple[str, Path | None]]:
    """Subsets and their lists: those that `obj.data` names, or else the lists that lie beside it."""
    named = {subset: value for subset, value in config.items() if subset not in _RESERVED}
    for subset, value in named.items():
        yield subset, here.get(_base_name(value))
    if not named:
        for name in sorted(here):
            if name.endswith(".txt"):
                yield PurePath(name).stem, here[name]


def _base_name(path: str) -> str:
    return re.split(r"[\\/]", path)[-1]


def _names(path: Path, dataset: Dataset) -> dict[int, int]:
    """Categories by their number, which is the line's."""
    categories: dict[int, int] = {}
    for number, name in text.lines(path):
        if number != len(categories) + 1:
            raise StepError(
                f"{path}, line {len(categories) + 1} is empty, so the numbers of the classes after it are unclear: "
                "give every class its line"
            )
        categories[len(categories)] = dataset.category(name)
    return categories


def _read_labels(
    path: Path,
    image: int,
    categories: Mapping[int, int],
    dataset: Dataset,
    keypoints: int = 0,
    image_file: Path | None = None,
) -> None:
    """Add the objects of a label file; `keypoints` counts the numbers that follow each box."""
    size: tuple[int, int] | None = None
    for number, line in text.lines(path):
        fields = line.split()
        where = f"{path}, line {number}"
        corners = len(fields) - 1
        if corners not in (4, 5, 4 + keypoints) and (corners < 6 or corners % 2):
            raise StepError(
                f"{where} has {len(fields)} fields, expected a class and 4 numbers (a box) or pairs (corners): "
                "dump the task again"
            )
        category = categories.get(text.whole(fields[0], where, "the class"))
        values = text.numbers(fields[1:], where, "a coordinate")
        if category is None:
            dataset.findings.note("dropped", NO_CATEGORY, dataset.names[image])
        elif corners in (4, 5, 4 + keypoints):
            # A fifth number is a track's or a score.
            x, y, width, height = values[:4]
            dataset.box(image, category, x - width / 2, y - height / 2, width, height, relative=True)
        elif box := around_points(zip(values[::2], values[1::2], strict=True)):
            if corners > _FOUR_CORNERS and image_file is not None:
                size = size or _size(image_file)
                box = _around_outline(box, values, size)
            dataset.box(image, category, *box, relative=True)
        else:
            dataset.findings.note("dropped", "shape of zero size", dataset.names[image])


def _around_outline(box: Box, values: Sequence[float], size: tuple[int, int]) -> Box:
    """Give the box around a polygon, which may be a mask's outline.

    CVAT turns masks into polygons through the centres of their outermost pixels (OpenCV's findContours), one pixel
    less than a brush's mask and exact for an ellipse's, and does not say so: half a pixel is added (`around_pixels`).
    """
    pixels = [value * side for value, side in zip(values, size * (len(values) // 2), strict=True)]
    if not min(size) or any(abs(pixel - round(pixel)) > _WRITTEN * max(size) for pixel in pixels):
        return box
    x, y, width, height = box
    return x, y, width + LAST_PIXEL / size[0], height + LAST_PIXEL / size[1]


def _size(path: Path) -> tuple[int, int]:
    """Width and height of an image in px; 0 where it cannot be read, which is found out later."""
    try:
        with open_image(path) as image:
            return image.size
    except ImageError:
        return 0, 0


def _read_ultralytics(config: Path, dataset: Dataset) -> None:
    folder, root = config.parent, dataset.root
    settings = _yaml(config)
    categories = _yaml_names(config, settings.get("names"), dataset)
    keypoints = _keypoints(settings.get("kpt_shape"))
    dataset.begin(config)

    texts_here = files_below(folder, lambda name: name.lower().endswith(".txt"))
    images: dict[tuple[str, ...], Path] = {
        normalized_parts(path.relative_to(folder).with_suffix("")): path for path in files_below(folder, is_image)
    }
    labels = {
        _swapped(normalized_parts(path.relative_to(folder).with_suffix("")), "labels", "images"): path
        for path in texts_here
    }
    labels.pop((), None)
    listing = _Listing(config, settings, texts_here, Stems(folder, images.values()), images)
    unlisted = []
    for stem in sorted(images.keys() | labels.keys() | listing.absent.keys()):
        subset = listing.subset(stem, images.get(stem))
        if subset is None:
            unlisted += [labels[stem].relative_to(root).as_posix()] if stem in labels else []
            continue
        path = images.get(stem)
        name = "/".join(stem) if path is None else path.relative_to(folder).as_posix()
        image = dataset.image(join(folder.relative_to(root), listing.absent.get(stem, name)), subset=subset)
        if stem in labels:
            _read_labels(labels[stem], image, categories, dataset, keypoints, path)
    dataset.findings.note_all("skipped", "label file of an unlisted image", unlisted, len(unlisted))


def _yaml(path: Path) -> dict[str, Any]:
    try:
        written = text.read_text(path)
        _refuse_expansion(path, written)
        # Of text alone: what is a number is ours to say, and YAML's own rules make `no` a class called False.
        document = yaml.load(written, getattr(yaml, "CBaseLoader", yaml.BaseLoader))  # noqa: S506 - makes text only
    except yaml.YAMLError as error:
        line = _line(getattr(error, "problem_mark", None))
        problem = getattr(error, "problem", None) or "unreadable"
        raise StepError(f"{path}{line}: not readable YAML ({problem}): fix it, or dump the task again") from None
    except (RecursionError, ValueError):
        raise StepError(f"{path}: not readable YAML: fix it, or dump the task again") from None
    if not isinstance(document, dict):
        raise StepError(f"{path} expected a YAML mapping: dump the task again")
    return document


def _line(mark: Any) -> str:
    return f", line {mark.line + 1}" if mark else ""


def _refuse_expansion(path: Path, written: str) -> None:
    """Refuse YAML that is more than text, lists and mappings: of aliases a small file makes anything."""
    depth = 0
    for event in yaml.parse(written, getattr(yaml, "CBaseLoader", yaml.BaseLoader)):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        flaw = (
            "an alias" if isinstance(event, yaml.AliasEvent)
            else "a tag" if getattr(event, "tag", None)
            else "deep nesting" if depth > DEEPEST_ELEMENTS
            else ""
        )  # fmt: skip
        if flaw:
            raise StepError(
                f"{path}{_line(event.start_mark)}: {flaw}, which CVAT never writes and this reader refuses: dump the "
                "task again"
            )


def _yaml_names(path: Path, names: Any, dataset: Dataset) -> dict[int, int]:
    pairs = names.items() if isinstance(names, dict) else enumerate(names) if isinstance(names, list) else ()
    if not pairs and isinstance(names, dict | list):
        raise StepError(
            f"{path}: 'names' is empty, so there is no class to train on: dump the task in another format (YOLO Pose "
            "holds skeletons only)"
        )
    if not pairs:
        raise StepError(
            f"{path}: 'names' is {text.shown(names)}, expected the classes as a list or by number: dump the task again"
        )
    categories: dict[int, int] = {}
    for number, name in pairs:
        if not isinstance(name, str) or not name.strip():
            raise StepError(f"{path}: 'names' has the name {text.shown(name)}, expected text: dump the task again")
        categories[text.whole(number, str(path), "a number in 'names'")] = dataset.category(name)
    return categories


def _keypoints(shape: Any) -> int:
    """How many numbers of keypoints follow a box, from `kpt_shape: [points, numbers of each]`."""
    try:
        points, each = map(to_int, shape) if isinstance(shape, list) else (0, 0)
    except ValueError:
        return 0
    return max(points, 0) * max(each, 0)


def _swapped(parts: tuple[str, ...], old: str, new: str) -> tuple[str, ...]:
    """Replace the last folder `old`, as Ultralytics goes from images to labels; () where there is none."""
    places = [place for place, part in enumerate(parts[:-1]) if part == old]
    return (*parts[: places[-1]], new, *parts[places[-1] + 1 :]) if places else ()


class _Listing:
    """Which images `data.yaml` counts to which subset: by list files, by folders, or by the folders' own names."""

    def __init__(
        self,
        config: Path,
        settings: Mapping[str, Any],
        lists: Sequence[Path],
        images: Stems,
        stems: Collection[tuple[str, ...]],
    ) -> None:
        self.absent: dict[tuple[str, ...], str] = {}
        """Listed images that have no file, by the path without suffix."""
        self._listed: dict[Path, str] = {}
        self._absent_subsets: dict[tuple[str, ...], str] = {}
        self._folders: dict[tuple[str, ...], str] = {}
        """Subsets by every end of their folders' paths: `data.yaml` may start one anywhere."""
        beginnings = {stem[:length] for stem in stems for length in range(len(stem) + 1)}
        by_name = {path.name: path for path in lists if path.parent == config.parent}
        for subset, values in settings.items():
            if not isinstance(subset, str) or subset.lower() in _SETTINGS:
                continue
            for value in values if isinstance(values, list) else [values]:
                if not isinstance(value, str):
                    continue
                list_file = by_name.get(_base_name(value))
                folder = tuple(part for part in normalized_parts(value) if part != "..")
                if list_file is not None:
                    self._add_list(list_file, subset, images)
                # A key of another name may hold anything: it is a subset where its folder has images.
                elif len(folder) <= DEEPEST:
                    tails = [folder[start:] for start in range(len(folder))]
                    if subset.lower() in _SUBSETS or any(tail in beginnings for tail in tails):
                        for tail in tails:
                            self._folders.setdefault(tail, subset)
        self._anything = bool(self._folders or self._listed or self.absent)

    def _add_list(self, path: Path, subset: str, images: Stems) -> None:
        for _, line in text.lines(path):
            name = line.replace("\\", "/").removeprefix("./").removeprefix("data/")
            stem = split_suffix(name)[0]
            if found := images.find(name) or images.find(stem):
                self._listed.setdefault(found, subset)
            else:
                self.absent.setdefault(normalized_parts(stem), name)
                self._absent_subsets.setdefault(normalized_parts(stem), subset)

    def subset(self, stem: tuple[str, ...], path: Path | None) -> str | None:
        """The subset of an image; None where `data.yaml` has subsets and it is in none of them."""
        if path in self._listed:
            return self._listed[path]
        if stem in self._absent_subsets:
            return self._absent_subsets[stem]
        if not self._anything:
            return _subset_of_folders(stem)
        beginnings = (stem[:length] for length in range(len(stem), 0, -1))
        return next((self._folders[each] for each in beginnings if each in self._folders), None)


def _subset_of_folders(stem: tuple[str, ...]) -> str:
    """`images/<subset>/name`, or `<subset>/images/name`."""
    if "images" not in stem[:-1]:
        return ""
    place = stem.index("images")
    after, before = stem[place + 1 : -1], stem[:place]
    return after[0] if after else before[-1] if before else ""
