"""The score from which a prediction should count: where F1 is best on the validation images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from typing import Any

import numpy as np
from hotcoco import COCOeval

from trainer.data.coco_dataset import categories_of
from trainer.evaluation.coco_metrics import ground_truth, scored

IOU = 0.5
FALLBACK_SCORE = 0.5
"""The threshold where nothing is known: a checkpoint without operating points, or a run that found nothing."""


@dataclass(frozen=True)
class OperatingPoint:
    """A score threshold, and what is reached with the predictions that score at least as much."""

    score: float | None
    """None where no threshold is better than another: there are no boxes, or no prediction finds one."""
    precision: float | None
    """Share of the predictions that are right; None where `score` is."""
    recall: float | None
    """Share of the boxes that are found; None where there are no boxes."""
    f1: float | None
    """Harmonic mean of the two; None where there are no boxes."""


@dataclass(frozen=True)
class OperatingPoints:
    """The operating point of all classes under one threshold, and that of each class under its own."""

    overall: OperatingPoint
    combined: OperatingPoint
    """Of all boxes and predictions, with each class under its own threshold, which is how a model predicts; `score` is
    None."""
    per_class: dict[str, OperatingPoint]

    def as_dict(self) -> dict[str, Any]:
        """Plain containers, as `metrics.json` and checkpoints hold them."""
        return asdict(self)


def operating_points(coco: dict[str, Any], predictions: list[dict[str, Any]]) -> OperatingPoints:
    """Finds the thresholds with the best F1, with predictions matched to boxes as COCO does at IoU 0.50.

    A threshold lies halfway between the last prediction that it lets through and the next one below, so that
    rounding does not move predictions across it. Predictions of equal score stay together; of thresholds with the
    same F1 the highest is taken. Predictions on crowd regions count as neither right nor wrong.

    Args:
        coco: content of a COCO file.
        predictions: COCO results for it: `image_id`, `category_id`, `bbox` [x, y, w, h] in px, `score`. As for COCO's
            metrics, only the 100 best of a class in an image count.

    Raises:
        TrainerError: a score is not a number.
    """
    truth = ground_truth(coco)
    evaluator = COCOeval(truth, scored(truth, predictions), "bbox")
    parameters = evaluator.params
    parameters.iou_thrs, parameters.max_dets = [IOU], [100]
    parameters.area_rng, parameters.area_rng_lbl = [[0.0, 1e10]], ["all"]
    evaluator.params = parameters
    evaluator.evaluate()

    scores: dict[int, list[float]] = {category.id: [] for category in categories_of(coco)}
    hits: dict[int, list[bool]] = {category_id: [] for category_id in scores}
    boxes = dict.fromkeys(scores, 0)
    for annotation in truth.anns.values():
        boxes[annotation["category_id"]] += not annotation["iscrowd"]
    for image in evaluator.eval_imgs:
        if image is None:
            continue
        for score, hit, ignored in zip(image["dtScores"], image["dtMatched"][0], image["dtIgnore"][0], strict=True):
            if not ignored:
                scores[image["category_id"]].append(score)
                hits[image["category_id"]].append(hit)
    overall = best_f1(list(chain(*scores.values())), list(chain(*hits.values())), sum(boxes.values()))
    of_class = {
        category_id: best_f1(scores[category_id], hits[category_id], boxes[category_id]) for category_id in boxes
    }
    kept = [
        hit
        for category_id, point in of_class.items()
        for score, hit in zip(scores[category_id], hits[category_id], strict=True)
        if (least := overall.score if point.score is None else point.score) is not None and score >= least
    ]
    return OperatingPoints(
        overall,
        _point(None, sum(kept), len(kept), sum(boxes.values())),
        {category.name: of_class[category.id] for category in categories_of(coco)},
    )


def best_f1(scores: Sequence[float], hits: Sequence[bool], boxes: int) -> OperatingPoint:
    """The operating point of predictions that are known to be right or wrong.

    Args:
        scores: of each prediction, in any order.
        hits: for each prediction whether it found a box that no better one found.
        boxes: how many there were to find.
    """
    if not boxes or not any(hits):
        return _point(None, 0, 0, boxes)
    order = np.argsort(-np.asarray(scores, dtype=np.float64), kind="stable")
    ranked = np.asarray(scores, dtype=np.float64)[order]
    right = np.cumsum(np.asarray(hits)[order])
    # Places after which the score falls: a threshold cannot part equal scores.
    ends = np.flatnonzero(np.append(ranked[1:] < ranked[:-1], True))
    f1 = 2 * right[ends] / (ends + 1 + boxes)
    best = int(f1.argmax())
    end = ends[best]
    score, below = float(ranked[end]), float(ranked[end + 1]) if end + 1 < len(ranked) else 0.0
    middle = (score + below) / 2
    return _point(middle if below < middle <= score else score, int(right[end]), int(end) + 1, boxes)


def _point(score: float | None, right: int, made: int, boxes: int) -> OperatingPoint:
    """What so many right predictions of all that were made are worth."""
    return OperatingPoint(
        score,
        precision=right / made if right else None,
        recall=right / boxes if boxes else None,
        f1=2 * right / (made + boxes) if boxes else None,
    )


def thresholds(points: dict[str, Any] | None, class_names: Sequence[str]) -> list[float]:
    """The score threshold for each label: that of its class, else that of all classes, else `FALLBACK_SCORE`.

    Args:
        points: what `OperatingPoints.as_dict` gave; None or empty where nothing was measured.
        class_names: by label.
    """
    points = points or {}
    overall = points.get("overall", {}).get("score")
    of_class = (points.get("per_class", {}).get(name, {}).get("score") for name in class_names)
    default = FALLBACK_SCORE if overall is None else overall
    return [default if score is None else score for score in of_class]
