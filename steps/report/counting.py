"""The tables and curves of the page as numbers, counted over all validation images."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from steps.report.matching import FALSE_POSITIVE, IGNORED, Box, ValImage
from steps.report.reading import Thresholds, measure, number, within

RECALLS = tuple(step * 0.01 for step in range(101))
"""Where COCO reads precision off; to the last bit, as a recall of 7 in 20 lies below its 0.35."""
SIZES = (("small", 0.0, 32.0**2), ("medium", 32.0**2, 96.0**2), ("large", 96.0**2, float("inf")))
"""COCO's names of sizes, with the areas in square pixels between which they lie."""


@dataclass(frozen=True)
class ClassRow:
    """What is known of a class; None where it was not measured."""

    id: int
    name: str
    ap: float | None
    numbers: dict[str, Any]
    """AP, AP50 and AP75 as the evaluation gave them."""
    boxes: int
    train_boxes: int | None
    hits: int
    missed: int
    false_positives: int
    threshold: float
    """Score from which its predictions count."""

    @property
    def precision(self) -> float | None:
        made = self.hits + self.false_positives
        return self.hits / made if made else None

    @property
    def recall(self) -> float | None:
        truth = self.hits + self.missed
        return self.hits / truth if truth else None


def class_rows(
    names: dict[int, str],
    images: Sequence[ValImage],
    metrics: dict[str, Any],
    prepared: dict[str, Any],
    thresholds: Thresholds,
) -> list[ClassRow]:
    """A row a class, best AP first, classes without a measurement last."""
    hits: Counter[int] = Counter()
    missed: Counter[int] = Counter()
    false_positives: Counter[int] = Counter()
    for image in images:
        missed.update(image.truth[index].category for index in image.missed_boxes)
        for box, found in zip(image.predictions[: image.made], image.found, strict=False):
            hits[box.category] += found >= 0
            false_positives[box.category] += found == FALSE_POSITIVE
    measured = within(metrics, "per_class")
    measured = measured if isinstance(measured, dict) else {}
    ids = {name: key for key, name in sorted(names.items(), reverse=True)}
    rows = []
    for name in dict.fromkeys([*map(str, measured), *ids]):
        numbers = measured.get(name)
        numbers = numbers if isinstance(numbers, dict) else {}
        key = ids.get(name, -1)
        truth = hits[key] + missed[key]
        boxes, train = number(numbers.get("boxes")), number(within(prepared, "classes", name, "train"))
        rows.append(
            ClassRow(
                id=key,
                name=name,
                ap=measure(numbers.get("AP")),
                numbers={key: numbers.get(key, None if truth else -1) for key in ("AP", "AP50", "AP75")},
                boxes=int(boxes) if boxes is not None else truth,
                train_boxes=None if train is None else int(train),
                hits=hits[key],
                missed=missed[key],
                false_positives=false_positives[key],
                threshold=thresholds.of(key),
            )
        )
    return sorted(rows, key=lambda row: (row.ap is None, -(row.ap or 0.0), row.name))


@dataclass(frozen=True)
class SizeRow:
    """What was found and missed of the objects of a size."""

    name: str
    boxes: int
    missed: int
    false_positives: int


def size_rows(images: Sequence[ValImage]) -> list[SizeRow]:
    """Small, medium and large: true boxes by their area, false positives by the area of the prediction."""
    boxes: Counter[str] = Counter()
    missed: Counter[str] = Counter()
    false_positives: Counter[str] = Counter()
    for image in images:
        boxes.update(_size(box) for box in image.truth if not box.crowd)
        missed.update(_size(image.truth[index]) for index in image.missed_boxes)
        for box, found in zip(image.predictions[: image.made], image.found, strict=False):
            false_positives[_size(box)] += found == FALSE_POSITIVE
    return [SizeRow(name, boxes[name], missed[name], false_positives[name]) for name, _, _ in SIZES]


def _size(box: Box) -> str:
    return next(name for name, _, most in SIZES if box.area < most)


@dataclass(frozen=True)
class Totals:
    """Right and wrong over all images, with each class at its threshold."""

    hits: int
    missed: int
    overlooked: int
    """The missed objects that a prediction with too low a score lies on."""
    false_positives: int
    confused: int
    """The false positives that lie on a missed object of another class."""
    repeated: int
    """The false positives that lie on an object of their class that another prediction has found."""

    @property
    def boxes(self) -> int:
        return self.hits + self.missed

    @property
    def made(self) -> int:
        return self.hits + self.false_positives

    @property
    def precision(self) -> float | None:
        return self.hits / self.made if self.made else None

    @property
    def recall(self) -> float | None:
        return self.hits / self.boxes if self.boxes else None


def totals(images: Sequence[ValImage]) -> Totals:
    """Sum up matched images."""
    return Totals(
        hits=sum(image.hits for image in images),
        missed=sum(image.missed for image in images),
        overlooked=sum(found >= 0 for image in images for found in image.found[image.made :]),
        false_positives=sum(image.false_positives for image in images),
        confused=sum(len(image.mistaken) for image in images),
        repeated=sum(image.repeated for image in images),
    )


@dataclass(frozen=True)
class Gap:
    """What was missed of the objects of a class and a size."""

    name: str
    size: str
    boxes: int
    missed: int


def gaps(names: dict[int, str], images: Sequence[ValImage]) -> list[Gap]:
    """Classes and sizes of which something was missed, the most missed first."""
    boxes = Counter((box.category, _size(box)) for image in images for box in image.truth if not box.crowd)
    missed = Counter(
        (image.truth[index].category, _size(image.truth[index])) for image in images for index in image.missed_boxes
    )
    found = [Gap(names.get(key, f"class {key}"), size, boxes[key, size], n) for (key, size), n in missed.items()]
    return sorted(found, key=lambda gap: (-gap.missed, gap.boxes, gap.name, gap.size))


Cell = tuple[int | None, int | None]
"""Class of the true box and class of the prediction; None for the background."""


def confusion(images: Sequence[ValImage]) -> Counter[Cell]:
    """How often an object of one class was predicted as one of another, or as nothing, or from nothing.

    Boxes of the same class are paired first, so the diagonal holds the hits; then a false positive goes to the
    missed box of another class on which it lies, and what is left is the background's.
    """
    cells: Counter[Cell] = Counter()
    for image in images:
        taken = set(image.mistaken.values())
        for index, box in enumerate(image.predictions[: image.made]):
            if image.found[index] == IGNORED:
                continue
            true = image.found[index] if image.found[index] >= 0 else image.mistaken.get(index)
            cells[None if true is None else image.truth[true].category, box.category] += 1
        for index in image.missed_boxes:
            if index not in taken:
                cells[image.truth[index].category, None] += 1
    return cells


def precision_by_class(images: Sequence[ValImage], *, strict: bool = False) -> dict[int, list[float]]:
    """Precision at each of `RECALLS` for each class with true boxes; its mean is the class's AP at that IoU.

    Args:
        images: matched.
        strict: boxes must overlap by 0.75, not by 0.5.
    """
    total = Counter(box.category for image in images for box in image.truth if not box.crowd)
    scored: dict[int, list[tuple[float, bool]]] = defaultdict(list)
    for image in images:
        for box, found in zip(image.predictions, image.found_strictly if strict else image.found, strict=True):
            if found != IGNORED:
                scored[box.category].append((box.score, found >= 0))
    return {
        category: _precision([hit for _, hit in sorted(scored[category], key=lambda pair: -pair[0])], boxes)
        for category, boxes in total.items()
    }


def _precision(hits: Iterable[bool], total: int) -> list[float]:
    """Precision at each of `RECALLS`: the best that is reached at that recall or a higher one, else 0."""
    recalls, precisions, right = [], [], 0
    for made, hit in enumerate(hits, start=1):
        right += hit
        recalls.append(right / total)
        precisions.append(right / made)
    for index in range(len(precisions) - 2, -1, -1):
        precisions[index] = max(precisions[index], precisions[index + 1])
    places = (bisect_left(recalls, recall) for recall in RECALLS)
    return [precisions[place] if place < len(precisions) else 0.0 for place in places]


@dataclass(frozen=True)
class Balance:
    """Precision and recall of all classes under one threshold, at many of them."""

    scores: list[float]
    precision: Sequence[float | None]
    recall: Sequence[float | None]


def balance(images: Sequence[ValImage]) -> Balance | None:
    """Precision and recall of all classes together; None where nothing was found."""
    total = sum(not box.crowd for image in images for box in image.truth)
    scored = sorted(
        (box.score, found >= 0)
        for image in images
        for box, found in zip(image.predictions, image.found, strict=True)
        if found != IGNORED
    )
    if not total or not any(hit for _, hit in scored):
        return None
    keys = [score for score, _ in scored]
    hits_from = [0] * (len(scored) + 1)
    for index in range(len(scored) - 1, -1, -1):
        hits_from[index] = hits_from[index + 1] + scored[index][1]
    steps = [step / 100 for step in range(1, 100)]
    places = [bisect_left(keys, step) for step in steps]
    return Balance(
        steps,
        [hits_from[place] / (len(keys) - place) if place < len(keys) else None for place in places],
        [hits_from[place] / total for place in places],
    )
