"""Which prediction found which true box, as COCO's protocol pairs them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from steps.report.reading import Thresholds, number, rows

FALSE_POSITIVE = -1
IGNORED = -2
"""A prediction in a crowd region: neither right nor wrong."""
IOU, STRICT_IOU = 0.5, 0.75


@dataclass(frozen=True)
class Box:
    """A true or a predicted box in pixels of the original image."""

    category: int
    x: float
    y: float
    w: float
    h: float
    area: float
    score: float = 1.0
    crowd: bool = False


@dataclass
class ValImage:
    """A validation image with its boxes, and which of them belong together."""

    id: int
    file_name: str
    width: float
    height: float
    truth: list[Box] = field(default_factory=list)
    predictions: list[Box] = field(default_factory=list)
    """Those that count as made first, and of either kind the best score first."""
    found: list[int] = field(default_factory=list)
    """For each prediction the index of the true box that it found, or `FALSE_POSITIVE` or `IGNORED`."""
    found_strictly: list[int] = field(default_factory=list)
    """The same with boxes that must overlap by three quarters."""
    made: int = 0
    """How many predictions, counted from the first, score enough to count as made."""
    missed_boxes: list[int] = field(default_factory=list)
    """Indices of the true boxes that no prediction made found."""
    mistaken: dict[int, int] = field(default_factory=dict)
    """Index of a false positive to that of the missed box, of another class, on which it lies."""

    @property
    def hits(self) -> int:
        return sum(found >= 0 for found in self.found[: self.made])

    @property
    def missed(self) -> int:
        return len(self.missed_boxes)

    @property
    def false_positives(self) -> int:
        return self.found[: self.made].count(FALSE_POSITIVE)

    @property
    def repeated(self) -> int:
        """False positives on an object of their class that another prediction has found."""
        found = [self.truth[index] for index in self.found[: self.made] if index >= 0]
        return sum(
            any(box.category == true.category and overlap(box, true) >= IOU for true in found)
            for box, index in zip(self.predictions[: self.made], self.found, strict=False)
            if index == FALSE_POSITIVE
        )

    @property
    def errors(self) -> int:
        return self.missed + self.false_positives


def collect(annotations: dict[str, Any], predictions: Sequence[Any]) -> tuple[dict[int, str], list[ValImage]]:
    """Sort the true and the predicted boxes by image; boxes that make no sense are left out.

    Returns:
        The classes' names by id, and the images by ascending id.
    """
    names = {
        int(row["id"]): str(row.get("name", row["id"]))
        for row in rows(annotations.get("categories"))
        if number(row.get("id")) is not None
    }
    images = {
        int(row["id"]): ValImage(
            int(row["id"]),
            str(row.get("file_name", "")),
            number(row.get("width")) or 0.0,
            number(row.get("height")) or 0.0,
        )
        for row in rows(annotations.get("images"))
        if number(row.get("id")) is not None
    }
    for row in rows(annotations.get("annotations")):
        image, box = images.get(row.get("image_id", -1)), _box(row, 1.0)
        if image and box:
            image.truth.append(box)
    for row in rows(list(predictions)):
        image, score = images.get(row.get("image_id", -1)), number(row.get("score"))
        if image and score is not None and (box := _box(row, score)):
            image.predictions.append(box)
    for image in images.values():
        # Of equal scores the earlier in the file first, as COCO's evaluation has it.
        image.predictions.sort(key=lambda box: -box.score)
    return names, [images[key] for key in sorted(images)]


def _box(row: dict[str, Any], score: float) -> Box | None:
    sides, category = row.get("bbox"), number(row.get("category_id"))
    if category is None or not isinstance(sides, list) or len(sides) != 4:
        return None
    x, y, w, h = (number(side) for side in sides)
    if x is None or y is None or w is None or h is None or w < 0 or h < 0:
        return None
    return Box(int(category), x, y, w, h, number(row.get("area")) or w * h, score, row.get("iscrowd") == 1)


def match(image: ValImage, thresholds: Thresholds) -> None:
    """Fill in everything about an image that depends on what belongs together.

    Args:
        image: as `collect` gives it.
        thresholds: the scores from which on predictions count as made.
    """
    # Boxes are paired class by class, and within a class this order is that of the scores.
    image.predictions.sort(key=lambda box: (box.score < thresholds.of(box.category), -box.score))
    image.found = _pair(image, IOU)
    image.found_strictly = _pair(image, STRICT_IOU)
    image.made = sum(box.score >= thresholds.of(box.category) for box in image.predictions)
    found = set(image.found[: image.made])
    image.missed_boxes = [i for i, box in enumerate(image.truth) if not box.crowd and i not in found]
    free = list(image.missed_boxes)
    image.mistaken = {}
    for index in range(image.made):
        if image.found[index] == FALSE_POSITIVE:
            box = image.predictions[index]
            most, place = max(((overlap(box, image.truth[i]), -i) for i in free), default=(0.0, 0))
            if most >= IOU and image.truth[-place].category != box.category:
                free.remove(-place)
                image.mistaken[index] = -place


def _pair(image: ValImage, threshold: float) -> list[int]:
    """Give each prediction, best score first, the free true box of its class that it overlaps most.

    Best first means that a pair does not depend on weaker predictions, so one pass serves every score.
    """
    free: dict[int, list[int]] = defaultdict(list)
    crowds: dict[int, list[Box]] = defaultdict(list)
    for index, box in enumerate(image.truth):
        if box.crowd:
            crowds[box.category].append(box)
        else:
            free[box.category].append(index)
    found = []
    for box in image.predictions:
        candidates = free[box.category]
        best = max(((overlap(box, image.truth[i]), i) for i in candidates), default=(0.0, 0))
        if best[0] >= threshold:
            candidates.remove(best[1])
            found.append(best[1])
        elif any(overlap(box, crowd, of_first=True) >= threshold for crowd in crowds[box.category]):
            found.append(IGNORED)
        else:
            found.append(FALSE_POSITIVE)
    return found


def overlap(a: Box, b: Box, *, of_first: bool = False) -> float:
    """Give the IoU of two boxes, or the share of the first that the second covers."""
    width = min(a.x + a.w, b.x + b.w) - max(a.x, b.x)
    height = min(a.y + a.h, b.y + b.h) - max(a.y, b.y)
    if width <= 0 or height <= 0:
        return 0.0
    shared = width * height
    return shared / (a.w * a.h if of_first else a.w * a.h + b.w * b.h - shared)
