"""Annotations that the model disputes: where it is sure of something else, the annotation may be wrong.

The three kinds of mistakes are those of ObjectLab (Tkachenko et al. 2023, arXiv 2309.00832): objects overlooked, of
another class, badly located. Unlike there, boxes are ranked and not images, and only predictions count that reach the
operating point of a class whose predictions are mostly right.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from steps.report.matching import FALSE_POSITIVE, Box, ValImage, overlap
from steps.report.pictures import picture
from steps.report.reading import Thresholds, number, within

OVERLOOKED, SWAPPED, LOOSE = "object without a box", "another class", "loose box"
KINDS = (OVERLOOKED, SWAPPED, LOOSE)
FIELDS = ("image", "part", "kind", "class", "predicted", "score", "dispute", "x", "y", "w", "h", "link")
"""Columns of `mistakes.csv`; x, y, w, h in px are those of the annotation, or of the prediction where there is none."""

_SAME = 0.5
"""IoU from which two boxes are of one object."""
_APART = 0.2
"""IoU below which a prediction has nothing to do with a box: neighbours may touch."""
_TIGHT = 0.7
"""IoU from which a box is as tight as people draw them."""
_TRUSTED = 0.5
"""Precision at its operating point from which a class may dispute."""


@dataclass(frozen=True)
class Mistake:
    """An annotation, or a lack of one, and the prediction that speaks against it."""

    kind: str
    part: str
    """Whether the image trains or validates."""
    image: ValImage
    annotated: Box | None
    predicted: Box
    dispute: float
    """0 to 1: how strongly the model disagrees; comparable within a kind."""

    def row(self, names: Mapping[int, str], link: str) -> dict[str, Any]:
        """The line of `mistakes.csv`."""
        box = self.annotated or self.predicted
        place = {name: round(value, 1) for name, value in zip("xywh", (box.x, box.y, box.w, box.h), strict=True)}
        return {
            "image": self.image.file_name,
            "part": self.part,
            "kind": self.kind,
            "class": names.get(self.annotated.category, "") if self.annotated else "",
            "predicted": names.get(self.predicted.category, ""),
            "score": round(self.predicted.score, 4),
            "dispute": round(self.dispute, 4),
            **place,
            "link": link,
        }


def trusted_classes(metrics: Mapping[str, Any], names: Mapping[int, str]) -> set[int]:
    """Give the classes whose predictions are right often enough at their operating points to dispute anything."""
    points = {key: within(dict(metrics), "operating_points", "per_class", name) for key, name in names.items()}
    return {
        key
        for key, point in points.items()
        if isinstance(point, dict) and (number(point.get("precision")) or 0.0) >= _TRUSTED
    }


def disputed(images: Iterable[ValImage], part: str, thresholds: Thresholds, trusted: Collection[int]) -> list[Mistake]:
    """Find what the model disputes, most disputed first within each kind.

    Args:
        images: as `steps.report.matching.collect` gives them.
        part: what the images are for: `train` or `val`.
        thresholds: the scores from which on predictions count.
        trusted: the classes that may dispute.
    """
    found = [mistake for image in images for mistake in _of_image(image, part, thresholds, trusted)]
    return sorted(found, key=by_kind)


def by_kind(mistake: Mistake) -> tuple[int, float, int]:
    """Sort by kind, and the most disputed first."""
    return KINDS.index(mistake.kind), -mistake.dispute, mistake.image.id


def counts(mistakes: Sequence[Mistake]) -> list[tuple[str, int]]:
    """How many of each kind there are."""
    return [(kind, number_of) for kind in KINDS if (number_of := sum(each.kind == kind for each in mistakes))]


def _of_image(image: ValImage, part: str, thresholds: Thresholds, trusted: Collection[int]) -> Iterator[Mistake]:
    free = [box for box in image.truth if not box.crowd]
    alone = []
    for box in _said(image, thresholds):
        # Its own class first: of two things on one spot each has its own box.
        place = max(range(len(free)), key=lambda i: (_on(box, free[i]), overlap(box, free[i])), default=None)
        if place is None or overlap(box, free[place]) < _SAME:
            alone.append(box)
            continue
        true = free.pop(place)
        close = overlap(box, true)
        if box.category not in trusted:
            continue
        if box.category != true.category:
            own = (p.score for p in image.predictions if p.category == true.category and overlap(p, true) >= _SAME)
            if (margin := box.score - max(own, default=0.0)) > 0:
                yield Mistake(SWAPPED, part, image, true, box, margin)
        elif close < _TIGHT:
            yield Mistake(LOOSE, part, image, true, box, box.score * (1 - close))
    for box in alone:
        if box.category not in trusted:
            continue
        around = [true for true in free if true.category == box.category and overlap(box, true) >= _APART]
        if around:
            true = max(around, key=lambda each: overlap(box, each))
            free.remove(true)
            yield Mistake(LOOSE, part, image, true, box, box.score * (1 - overlap(box, true)))
        # What lies on an object that another prediction took is one too many, not one overlooked.
        elif all(overlap(box, true) < _APART for true in image.truth):
            yield Mistake(OVERLOOKED, part, image, None, box, box.score)


def _said(image: ValImage, thresholds: Thresholds) -> list[Box]:
    """The predictions that count, surest first, without weaker ones on the same spot and what lies in a crowd."""
    crowds = [box for box in image.truth if box.crowd]
    said: list[Box] = []
    for box in sorted(image.predictions, key=lambda box: -box.score):
        if (
            box.score >= thresholds.of(box.category)
            and all(overlap(box, crowd, of_first=True) < _SAME for crowd in crowds)
            and all(overlap(box, other) < _SAME for other in said)
        ):
            said.append(box)
    return said


def _on(box: Box, true: Box) -> bool:
    return box.category == true.category and overlap(box, true) >= _SAME


def as_csv(mistakes: Iterable[Mistake], names: Mapping[int, str], dataset_dir: Path, links: Mapping[Path, str]) -> str:
    """Write them as a table with `FIELDS`."""
    text = io.StringIO()
    writer = csv.DictWriter(text, FIELDS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(
        each.row(names, links.get((dataset_dir / each.image.file_name).absolute(), "")) for each in mistakes
    )
    return text.getvalue()


def pictures_of(
    mistakes: Sequence[Mistake], most: int, dataset_dir: Path, names: dict[int, str], links: Mapping[Path, str]
) -> list[dict[str, Any]]:
    """Draw the most disputed of each kind, each on its image with nothing but the two boxes."""
    drawn = []
    for kind in KINDS:
        for mistake in [each for each in mistakes if each.kind == kind][:most]:
            pair = replace(
                mistake.image,
                truth=[mistake.annotated] if mistake.annotated else [],
                predictions=[mistake.predicted],
                found=[FALSE_POSITIVE],
                made=1,
            )
            drawn.append({**picture(pair, kind, dataset_dir, names, links), "kind": kind, "part": mistake.part})
    return drawn
