"""Which images and boxes of a dump are trained on, and what becomes of the others."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from steps.common.errors import StepError
from steps.common.messages import printable
from steps.dataset.findings import Action, Findings
from steps.dataset.model import Boxes, Category, Dataset
from steps.preparation.image_headers import MOST_PIXELS, Header, read_headers
from steps.preparation.orientation import upright_boxes

LARGE = 50_000_000
"""Pixels from which an image is reported: decoding it takes a second and hundreds of megabytes."""
DECIMALS = 3
"""Of a pixel: formats that write fractions leave noise behind these."""
ROUNDING = 0.01
"""Pixels that a box may stand out of its image without being reported: exporters round to hundredths."""
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Clean:
    """Images that exist, and boxes that lie within them."""

    files: list[str]
    """Paths in the dataset's folder, sorted."""
    subsets: list[str]
    sizes: list[tuple[int, int]]
    """Width and height in px of the upright images."""
    boxes: Boxes
    """`image` counts `files`, `category` counts `categories`; in px, in the order of the images."""
    categories: list[Category]
    digests: list[str] = field(default_factory=list)
    """SHA-256 of each of `files`."""


def clean(dataset: Dataset, found: Sequence[str | None]) -> Clean:
    """Judge what a dump says.

    Args:
        dataset: what the dump says.
        found: the file that each of its images means, None where it is missing.

    Raises:
        StepError: an image has more pixels than Pillow reads, or there is no image or box to train on.
    """
    findings = dataset.findings
    files, headers = _usable(dataset, found)
    numbers = {file: number for number, file in enumerate(files)}
    of_row = np.array([numbers.get(file or "", -1) for file in found], np.int64)
    sizes, xywh = upright_boxes(dataset, of_row, headers)

    stated = dataset.boxes()
    image = of_row[stated.image]
    absent = np.flatnonzero(image < 0)
    names = (dataset.names[row] for row in stated.image[absent])
    findings.note_all("dropped", "box of an image that cannot be used", names, len(absent))
    sources = np.array(dataset.sources, np.int64)[stated.image]
    with np.errstate(over="ignore", invalid="ignore"):
        boxes = replace(stated, image=image, xywh=np.round(xywh, DECIMALS) + 0.0)
    sieve = _Sieve(boxes, sources, files, dataset.categories, findings)
    sieve.keep(image >= 0)
    _drop_without_size(sieve)
    _clip(sieve, np.array(sizes, np.float64).reshape(-1, 2))
    _drop_duplicates(sieve)
    _drop_of_later_files(sieve)
    if not len(sieve.boxes):
        raise StepError(
            f"{dataset} has no boxes{_lost(findings)}: annotate some objects in CVAT, or dump them in another format"
        )
    sieve.note("noted", sieve.boxes.crowd, "crowd region (iscrowd): kept as one, not trained on")
    _note_unused(dataset.categories, sieve.boxes, findings)
    subsets, digests = _subsets(dataset, of_row, len(files)), [header.digest for header in headers]
    return Clean(files, subsets, sizes, sieve.by_image(), dataset.categories, digests)


def _usable(dataset: Dataset, found: Sequence[str | None]) -> tuple[list[str], list[Header]]:
    """Give the listed image files that can be read, and their headers."""
    listed = sorted({file for file in found if file is not None})
    findings = dataset.findings
    usable: list[tuple[str, Header]] = []
    for file, header in zip(listed, read_headers([str(dataset.root / file) for file in listed]), strict=True):
        if header.too_large:
            raise StepError(
                f"{dataset.root / printable(file)} cannot be trained on: {header.flaw}, and {MOST_PIXELS:,} are the "
                "most that are read: make it smaller or cut it into several"
            )
        if header.flaw:
            findings.note("dropped", "image that cannot be read", f"{file}: {header.flaw}")
            continue
        if header.kind:
            findings.note("noted", f"image with {header.kind}, read as RGB", file)
        if header.width * header.height > LARGE:
            findings.note("noted", f"image of more than {LARGE // 1_000_000} million pixels", file)
        usable.append((file, header))
    if not usable:
        raise StepError(f"{dataset} has no usable image{_lost(findings)}: dump a task with some")
    return [file for file, _ in usable], [header for _, header in usable]


def _lost(findings: Findings) -> str:
    """Say where everything went, in brackets."""
    report = findings.report()
    went = [
        f"{action}: " + "; ".join(f"{found['count']} x {what}" for what, found in report[action].items())
        for action in ("dropped", "skipped")
        if report[action]
    ]
    return f" ({', '.join(went)})" if went else ""


def _subsets(dataset: Dataset, of_row: NDArray[np.int64], count: int) -> list[str]:
    """Give each image's subset: the first that lists it."""
    subsets: list[str | None] = [None] * count
    for row, image in enumerate(of_row.tolist()):
        if image < 0:
            continue
        if subsets[image] is None:
            subsets[image] = dataset.subsets[row]
        elif subsets[image] != dataset.subsets[row]:
            dataset.findings.note("repaired", "image in two subsets, kept in the first", dataset.names[row])
    return [subset or "" for subset in subsets]


class _Sieve:
    """Boxes, of which each rule leaves some."""

    def __init__(
        self,
        boxes: Boxes,
        sources: NDArray[np.int64],
        files: Sequence[str],
        categories: Sequence[Category],
        findings: Findings,
    ) -> None:
        self.boxes, self.sources = boxes, sources
        self._files, self._categories, self._findings = files, categories, findings

    def note(self, action: Action, rows: Mask, what: str) -> None:
        offenders = np.flatnonzero(rows)
        names = (
            f"{self._files[self.boxes.image[row]]}: {self._categories[self.boxes.category[row]].name}"
            for row in offenders
        )
        self._findings.note_all(action, what, names, len(offenders))

    def drop(self, rows: Mask, what: str) -> None:
        if rows.any():
            self.note("dropped", rows, what)
            self.keep(~rows)

    def keep(self, rows: Mask) -> None:
        if not rows.all():
            self.boxes, self.sources = self.boxes[rows], self.sources[rows]

    def by_image(self) -> Boxes:
        return self.boxes[np.argsort(self.boxes.image, kind="stable")]


def _any(values: Mask) -> Mask:
    """Tell which rows have any."""
    return np.asarray(values.any(axis=1), bool)


def _drop_without_size(sieve: _Sieve) -> None:
    sieve.drop(_any(~np.isfinite(sieve.boxes.xywh)), "box with NaN or infinite numbers")
    sieve.drop(_any(sieve.boxes.xywh[:, 2:] <= 0), "box without width or height")


def _clip(sieve: _Sieve, sizes: NDArray[np.float64]) -> None:
    """Cut the boxes at the edges of their images."""

    def corners() -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        start = sieve.boxes.xywh[:, :2]
        return start, start + sieve.boxes.xywh[:, 2:], sizes[sieve.boxes.image]

    start, end, size = corners()
    sieve.drop(_any(np.minimum(end, size) <= np.maximum(start, 0)), "box outside its image")
    start, end, size = corners()
    inside, until = np.maximum(start, 0), np.minimum(end, size)
    over = np.maximum(inside - start, end - until).max(1, initial=0)
    sieve.note("repaired", over > ROUNDING, "box clipped to its image")
    cut = np.round(until - inside, DECIMALS)
    xywh = np.where((over > 0)[:, None], np.concatenate([inside, cut], axis=1), sieve.boxes.xywh)
    sieve.boxes = replace(sieve.boxes, xywh=xywh)
    sieve.drop(_any(xywh[:, 2:] <= 0), "box outside its image")


def _drop_duplicates(sieve: _Sieve) -> None:
    """Leave one of the boxes that an image has of the same class in the same place: the first."""
    boxes = sieve.boxes
    columns = [boxes.image, boxes.category, *boxes.xywh.T.copy().view(np.int64), boxes.crowd]
    # Sorted by a number made of all columns, equal boxes are neighbours; what only shares the number is compared.
    mixed = np.zeros(len(boxes), np.uint64)
    for column in columns:
        mixed = (mixed ^ column.astype(np.int64).view(np.uint64)) * np.uint64(0x9E3779B97F4A7C15)
        mixed ^= mixed >> np.uint64(29)
    order = np.argsort(mixed, kind="stable")
    repeats = np.ones(max(len(boxes) - 1, 0), bool)
    for column in columns:
        repeats &= column[order[1:]] == column[order[:-1]]
    rows = np.zeros(len(boxes), bool)
    rows[order[1:][repeats]] = True
    sieve.drop(rows, "duplicate of another box")


def _drop_of_later_files(sieve: _Sieve) -> None:
    """Where annotation files disagree on an image's boxes of a class, leave those of the first file that has any."""
    boxes, sources = sieve.boxes, sieve.sources
    if len(np.unique(sources)) < 2:
        return
    pair = boxes.image * (int(boxes.category.max(initial=0)) + 1) + boxes.category
    order = np.lexsort((sources, pair))
    starts = np.flatnonzero(np.diff(pair[order], prepend=-1))
    first = np.repeat(sources[order][starts], np.diff(starts, append=len(order)))
    rows = np.zeros(len(boxes), bool)
    rows[order] = sources[order] > first
    sieve.drop(rows, "box of an image and class that an earlier annotation file also has")


def _note_unused(categories: Sequence[Category], boxes: Boxes, findings: Findings) -> None:
    used = set(np.unique(boxes.category).tolist())
    unused = [category.name for number, category in enumerate(categories) if number not in used]
    findings.note_all("noted", "category without a box", unused, len(unused))
