"""MS COCO: `annotations/instances_<subset>.json` or `person_keypoints_<subset>.json`, and images.

CVAT writes it by datumaro (plugins/coco_format/converter.py): a rotated rectangle unrotated, with its angle as an
attribute, and a mask or an ellipse as a run-length mask with `iscrowd: 1`, though CVAT has no crowds.
"""

import logging
import re
from collections import Counter
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from steps.common.budgets import LARGEST
from steps.common.errors import StepError
from steps.common.messages import printable
from steps.common.numbers import to_int
from steps.dataset.layout import MADE_BY, MOVED_ASIDE
from steps.dataset.lookup import files_below
from steps.dataset.model import Dataset
from steps.formats.objects import rotated
from steps.formats.shapes import Box, around_polygons, around_rle
from steps.formats.text import read_document

log = logging.getLogger(__name__)

TAG = "cvat_coco"
TITLE = "COCO 1.0"
_INSTANCES, _KEYPOINTS = "instances_", "person_keypoints_"
_IDS = "an id is a whole number of up to 15 digits"
_INFO = {"contributor", "date_created", "description", "url", "version", "year"}
OURS = re.compile(rb'"made_by":"' + MADE_BY.encode() + rb'"|"split_digest":"')
"""Either tells a file that the prepare step wrote: one damaged bit must not turn it into a dump."""


def recognise(root: Path) -> list[Path]:
    """Give the annotation files that are the dump's and not ours; keypoints where there are no instances."""
    named = files_below(root, lambda name: name.startswith((_INSTANCES, _KEYPOINTS)) and name.endswith(".json"))
    found = [path for path in named if not is_ours(path)]
    if instances := [path for path in found if path.name.startswith(_INSTANCES)]:
        found = instances
    # Moved aside by an earlier run, and fetched again since: the one that came last.
    stale = {root / aside for name, aside in MOVED_ASIDE.items() if root / name in found}
    return [path for path in found if path not in stale]


def is_ours(path: Path) -> bool:
    """Tell whether the prepare step wrote a file."""
    with path.open("rb") as file:
        return OURS.search(file.read(200)) is not None


def read(root: Path, dataset: Dataset) -> None:
    """Read all annotation files; those that are named as our output is are moved aside first."""
    for path in recognise(root):
        if aside := MOVED_ASIDE.get(path.relative_to(root).as_posix()):
            (root / aside).parent.mkdir(exist_ok=True)
            path = path.replace(root / aside)
        dataset.begin(path)
        _File(path, dataset).read()


class _File:
    """One annotation file on its way into the dataset."""

    def __init__(self, path: Path, dataset: Dataset) -> None:
        self.path = path
        self.dataset = dataset
        self.findings = dataset.findings
        self.name = path.relative_to(dataset.root).as_posix()
        self.subset = path.stem.removeprefix(_INSTANCES).removeprefix(_KEYPOINTS)

    def read(self) -> None:
        document = self._document()
        categories = self._categories(document.pop("categories"))
        images = self._images(document.pop("images"))
        annotations = document.pop("annotations")
        self._annotations(annotations, images, categories, by_cvat=_is_by_cvat(document.get("info"), annotations))

    def _document(self) -> dict[str, Any]:
        document = read_document(self.path, lambda flaw: self.findings.note("repaired", flaw, self.name))
        if not isinstance(document, dict):
            raise StepError(f"{self.path} is not a COCO file: expected a JSON object at the top level")
        for name in ("images", "annotations", "categories"):
            if not isinstance(entries := document.get(name), list):
                flaw = "no list" if name in document else "missing"
                raise StepError(f"{self.path} is not a COCO file: '{name}' is {flaw}")
            if not set(map(type, entries)) <= {dict}:
                index = next(index for index, entry in enumerate(entries) if not isinstance(entry, dict))
                raise StepError(f"{self.path}: {name}[{index}] is not an object: dump the task again")
        return document

    def _categories(self, entries: Sequence[dict[str, Any]]) -> dict[int, int]:
        """Add the classes; give the index of each by its id here."""
        found: dict[int, int] = {}
        names: dict[str, int] = {}
        for index, entry in enumerate(entries):
            number, name = self._id(entry.get("id")), entry.get("name")
            if number is None or isinstance(name, bool) or not isinstance(name, str | int) or str(name) == "":
                raise StepError(f"{self.path}: categories[{index}] needs an 'id' and a 'name': {_IDS}")
            if not isinstance(name, str):
                self.findings.note("repaired", "category named by a number", str(name))
                name = str(name)
            if name in names:
                what = "category listed twice" if names[name] == number else "categories of one name made one"
                self.findings.note("repaired", what, name)
            names.setdefault(name, number)
            category = self.dataset.category(name, id=number, supercategory=str(entry.get("supercategory") or ""))
            if found.setdefault(number, category) != category:
                other = self.dataset.categories[found[number]].name
                raise StepError(
                    f"{self.path}: the categories '{printable(other)}' and '{printable(name)}' have the same id "
                    f"{number}: dump the task again"
                )
        return found

    def _images(self, entries: Sequence[dict[str, Any]]) -> dict[int, int]:
        """Add the images; give the index of each by its id here."""
        found: dict[int, int] = {}
        add, names = self.dataset.image, self.dataset.names
        for index, entry in enumerate(entries):
            number, name = entry.get("id"), entry.get("file_name")
            if type(number) is not int or abs(number) > LARGEST:
                number = self._id(number)
            if number is None or not isinstance(name, str):
                raise StepError(f"{self.path}: images[{index}] needs an 'id' and a 'file_name': {_IDS}")
            if number in found:
                if names[found[number]] != name:
                    raise StepError(
                        f"{self.path}: the images '{printable(names[found[number]])}' and '{printable(name)}' have the "
                        f"same id {number}: dump the task again"
                    )
                self.findings.note("repaired", "image listed twice", name)
                continue
            found[number] = add(name, subset=self.subset, width=entry.get("width"), height=entry.get("height"))
        return found

    def _id(self, value: Any) -> int | None:
        """Give an id as the whole number that it is, or that a tool wrote as text."""
        try:
            number = to_int(value)
        except ValueError:
            return None
        if not isinstance(value, int):
            how = "as text" if isinstance(value, str) else "as a fraction"
            self.findings.note("repaired", f"id written {how}", self.name)
        return number

    def _annotations(
        self, entries: list[dict[str, Any]], images: dict[int, int], categories: dict[int, int], *, by_cvat: bool
    ) -> None:
        """Add the boxes: what is as it should be in columns, all at once; the rest one by one."""
        image, category = self._indices(entries, "image_id", images), self._indices(entries, "category_id", categories)
        plain = (image >= 0) & (category >= 0)
        for what, rows in (
            ("box of an unlisted image", image < 0),
            ("box of an unlisted category", (image >= 0) & (category < 0)),
        ):
            names = (f"{self.name}: annotations[{index}]" for index in np.flatnonzero(rows))
            self.findings.note_all("dropped", what, names, int(rows.sum()))
        self._note_repeated_ids(entries)
        if self.dataset.exclude:
            for index in np.flatnonzero(plain).tolist():
                plain[index] = not self._is_excluded(entries[index], int(image[index]))

        bboxes: list[Any] = [entry.get("bbox") for entry in entries]
        crowd = np.array([_is_crowd(entry.get("iscrowd")) for entry in entries], bool)
        if by_cvat:
            bboxes = [_drawn(entry, box) for entry, box in zip(entries, bboxes, strict=True)]
        if crowd.any():
            crowd = self._crowds(crowd & plain, by_cvat)
        odd = np.flatnonzero(plain & ~_are_plain(bboxes))
        plain[odd] = False
        if plain.all():
            numbers = np.fromiter(chain.from_iterable(bboxes), np.float64, 4 * len(bboxes))
        else:
            numbers = np.array([bboxes[index] for index in np.flatnonzero(plain)], np.float64)
        self.dataset.add_boxes(image[plain], category[plain], numbers, crowd[plain])
        for index in odd.tolist():
            self._odd(entries[index], bboxes[index], int(image[index]), int(category[index]), bool(crowd[index]), index)

    def _indices(self, entries: Sequence[dict[str, Any]], key: str, known: dict[int, int]) -> NDArray[np.int64]:
        """Give the index that each entry's id stands for, -1 for an id that is not known."""
        ids: list[Any] = [entry.get(key) for entry in entries]
        if not set(map(type, ids)) <= {int}:
            ids = [self._id(number) for number in ids]
        return np.array([known.get(number, -1) for number in ids], np.int64)

    def _note_repeated_ids(self, entries: Sequence[dict[str, Any]]) -> None:
        ids = [number for entry in entries if type(number := entry.get("id")) is int]
        if (unique := len(set(ids))) < len(ids):
            repeated = (f"{self.name}: id {number}" for number, count in Counter(ids).items() if count > 1)
            what = "annotation id used twice, renumbered"
            self.findings.note_all("repaired", what, repeated, len(ids) - unique)

    def _is_excluded(self, entry: dict[str, Any], image: int) -> bool:
        attributes = entry.get("attributes")
        return isinstance(attributes, dict) and self.dataset.excludes(attributes, lambda: self.dataset.names[image])

    def _crowds(self, crowd: NDArray[np.bool_], by_cvat: bool) -> NDArray[np.bool_]:
        """Tell which annotations are crowd regions, of those that are marked so; say what was decided."""
        meaning = self.dataset.crowds
        regions = meaning == "regions" or (meaning == "auto" and not by_cvat)
        why = "--crowds" if meaning != "auto" else "CVAT has no crowds" if by_cvat else "CVAT did not write the file"
        log.info(
            "%s: %d annotations have iscrowd 1: they are %s (%s)",
            self.name, crowd.sum(), "crowd regions, not trained on" if regions else "objects", why,
        )  # fmt: skip
        if not regions:
            self.findings.note("noted", "mask with iscrowd 1, read as an object", self.name, int(crowd.sum()))
        return crowd if regions else np.zeros_like(crowd)

    def _odd(self, entry: dict[str, Any], box: Any, image: int, category: int, crowd: bool, index: int) -> None:
        """Add the box of an annotation whose `bbox` is not a list of four numbers."""
        where = f"{self.name}: annotations[{index}]"
        if not box:
            box = _around(entry.get("segmentation"))
            if box is not None:
                self.findings.note("repaired", "box computed from its segmentation", where)
            elif entry.get("keypoints"):
                self.findings.note("skipped", "points: they have no box", where)
                return
        if not isinstance(box, list | tuple) or len(box) != 4:
            self.findings.note("dropped", "box that is not four numbers", where)
            return
        self.dataset.box(image, category, *box, crowd=crowd)


def _is_by_cvat(info: Any, entries: Sequence[dict[str, Any]]) -> bool:
    """Tell CVAT's files by datumaro's empty `info` and the attribute that CVAT gives every shape."""
    if not isinstance(info, dict) or not info.keys() >= _INFO or any(info[key] != "" for key in _INFO):
        return False
    return any("occluded" in attributes for entry in entries if isinstance(attributes := entry.get("attributes"), dict))


def _drawn(entry: dict[str, Any], box: Any) -> Any:
    """Give the box around what was drawn in CVAT, from the `bbox` that it writes."""
    segmentation, attributes = entry.get("segmentation"), entry.get("attributes")
    if isinstance(segmentation, dict):
        return list(around_rle(segmentation, painted=True) or ()) or box
    if segmentation or not isinstance(attributes, dict) or not attributes.get("rotation"):
        return box
    is_box = type(box) is list and len(box) == 4 and all(map(_is_number, box))
    return list(rotated(tuple(box), attributes)) if is_box else box


def _are_plain(bboxes: Sequence[Any]) -> NDArray[np.bool_]:
    """Tell which of the values are lists of four numbers."""
    if set(map(type, bboxes)) <= {list} and set(map(len, bboxes)) <= {4}:
        kinds = set(map(type, chain.from_iterable(bboxes)))
        if kinds <= {float}:
            return np.ones(len(bboxes), bool)
    return np.array([type(box) is list and len(box) == 4 and all(map(_is_number, box)) for box in bboxes], bool)


def _is_number(value: Any) -> bool:
    # Whole numbers of JSON have no end, and those beyond a float's are looked at one by one.
    return type(value) is float or (type(value) is int and abs(value) <= LARGEST)


def _is_crowd(value: Any) -> bool:
    return value not in (None, 0, "0", "", "false") and value == value


def _around(segmentation: Any) -> Box | None:
    if isinstance(segmentation, dict):
        return around_rle(segmentation)
    if isinstance(segmentation, list):
        return around_polygons(segmentation)
    return None
