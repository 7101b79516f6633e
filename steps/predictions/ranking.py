"""What to annotate next: the images that a model is least sure of, and that are unlike one another.

How sure it is of a box is the margin between the two likeliest answers (Brust et al. 2018, arXiv 1809.09875), and which
of the doubtful images differ is found by farthest-first traversal (Sener and Savarese 2018, arXiv 1708.00489).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional
from torchvision.ops import box_iou, nms

Aggregate = Literal["sum", "mean", "max"]
"""How the uncertainties of an image's boxes become that of the image."""

CANDIDATES = 4
"""How many times as many images as are wanted the different ones are chosen from."""

_SAME_PLACE = 0.5
"""IoU from which two boxes are answers to the same question."""
_LEAST = 0.25
"""Certainty below which a box is background to the model: half the score from which it would count."""
_DOUBTFUL = 0.5
_NAMED = 3


@dataclass(frozen=True)
class Ranked:
    """An image to annotate."""

    index: int
    """Its place among those that were ranked."""
    uncertainty: float
    reason: str
    """In words, on one line."""


class Place(NamedTuple):
    """Somewhere in an image, and what the model wavers between there."""

    uncertainty: float
    answers: str
    found: bool
    """Whether the model says that something is there."""


class Assessed(NamedTuple):
    """What an image's predictions come to."""

    places: list[Place]
    """Most uncertain first."""
    features: Tensor
    """`[C]`, of length 1."""


def assess(found: Mapping[str, Tensor], thresholds: Sequence[float], class_names: Sequence[str]) -> Assessed:
    """Measure how uncertain a model is about each box on an image.

    A box's certainty c is its score, stretched so that it is 0.5 at the threshold: detectors with a sigmoid for each
    class are sure of a box long before its score is 1, and right about most that score 0.4. The margin is between the
    best class and whatever comes next there: another class, or nothing at all, whose certainty is 1 - c. The
    uncertainty is one minus the margin, so 1 at the threshold and 0 at the scores 0 and 1. Boxes of less than half the
    threshold's score are background and do not count; of boxes in the same place, one does.

    Args:
        found: `scores` `[n]`, `labels` `[n]` and `boxes` `[n, 4]` (x0, y0, x1, y1 in px) of all detections, whatever
            they score, and `features` `[C]`, as `trainer.Detector.predict` gives them.
        thresholds: by label, the score from which a prediction counts.
        class_names: by label.
    """
    scores, labels, boxes = found["scores"].double(), found["labels"], found["boxes"].double()
    limit = torch.tensor(thresholds, dtype=torch.float64)[labels].clamp(1e-6, 1 - 1e-6)
    certainty = torch.where(scores < limit, scores / limit, 1 + (scores - limit) / (1 - limit)) / 2
    counts = certainty >= _LEAST
    scores, labels, boxes, certainty = scores[counts], labels[counts], boxes[counts], certainty[counts]
    names = [class_names[label] for label in labels.tolist()]
    overlap = box_iou(boxes, boxes) >= _SAME_PLACE
    places = []
    for index in nms(boxes, certainty, _SAME_PLACE).tolist():
        best, answers = float(certainty[index]), f"{names[index]} {scores[index]:.2f}"
        second = 1 - best
        rivals = (overlap[index] & (labels != labels[index])).nonzero().flatten()
        if len(rivals) and float(certainty[rivals].max()) > second:
            rival = int(rivals[certainty[rivals].argmax()])
            second = float(certainty[rival])
            answers += f" or {names[rival]} {scores[rival]:.2f}"
        places.append(Place(1 - abs(best - second), answers, best >= 0.5))
    places.sort(key=lambda place: -place.uncertainty)
    return Assessed(places, functional.normalize(found["features"].double(), dim=0))


def rank(
    images: Sequence[Assessed], count: int, *, by: Aggregate = "sum", candidates: int | None = CANDIDATES
) -> list[Ranked]:
    """Choose the images to annotate next, in the order to annotate them in.

    An image where nothing is found is an easy negative or a miss, and the scores do not tell which. It counts as one
    missed object, with the share of the images that have something as the probability.

    Args:
        images: what `assess` gave for each.
        count: how many images to choose; fewer are given where there are fewer.
        by: how an image's doubts become one.
        candidates: choose those that differ among so many times `count` of the most uncertain; None for all.
    """
    share = sum(_has_something(image) for image in images) / max(len(images), 1)
    uncertainty = [_aggregate(image, share, by) for image in images]
    order = sorted(range(len(images)), key=lambda index: -uncertainty[index])
    if candidates is not None:
        order = order[: candidates * count]
    if not order:
        return []
    features = torch.stack([images[index].features for index in order])
    return [
        Ranked(index, uncertainty[index], _reason(images[index], share))
        for index in (order[place] for place in farthest_first(features, count))
    ]


def farthest_first(features: Tensor, count: int) -> list[int]:
    """Begin with the first row, and go on with the one farthest from all that were taken (the greedy k-centre).

    Args:
        features: `[n, C]`.
        count: how many to take, of n at most.

    Returns:
        Numbers of rows; of rows that are equally far, the first.
    """
    chosen: list[int] = []
    distance = torch.full((len(features),), torch.inf, dtype=features.dtype)
    while len(chosen) < min(count, len(features)):
        chosen.append(int(distance.argmax()))
        distance = torch.minimum(distance, (features - features[chosen[-1]]).norm(dim=1))
        distance[chosen] = -1
    return chosen


def _has_something(image: Assessed) -> bool:
    return any(place.found for place in image.places)


def _aggregate(image: Assessed, share: float, by: Aggregate) -> float:
    values = torch.tensor([place.uncertainty for place in image.places] or [0.0], dtype=torch.float64)
    total = float(getattr(values, by)())
    return total if _has_something(image) else max(total, share)


def _reason(image: Assessed, share: float) -> str:
    doubtful = [place for place in image.places if place.uncertainty >= _DOUBTFUL]
    words = []
    if not _has_something(image):
        words.append("nothing found" + (f", while {share:.0%} of the images have something" if share else ""))
    if doubtful:
        named = ", ".join(place.answers for place in doubtful[:_NAMED]) + (", ..." if len(doubtful) > _NAMED else "")
        words.append(f"{len(doubtful)} doubtful box{'es' * (len(doubtful) > 1)}: {named}")
    if sure := len(image.places) - len(doubtful):
        words.append(f"{sure} sure")
    return "; ".join(words)
