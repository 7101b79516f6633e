"""The best F1 against plain loops, that match the predictions above every single threshold anew."""

from __future__ import annotations

import random
from typing import Any

import pytest

from tests.trainer.evaluation.test_coco_metrics import scene
from trainer.evaluation.operating_point import OperatingPoint, best_f1, operating_points, thresholds


def overlap(a: list[float], b: list[float], crowd: bool) -> float:
    width = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    height = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    shared = max(width, 0) * max(height, 0)
    return shared / (a[2] * a[3] if crowd else a[2] * a[3] + b[2] * b[3] - shared)


def counted(coco: dict[str, Any], found: list[dict[str, Any]], threshold: float) -> tuple[int, int, int]:
    """Hits, predictions that count, and boxes, with predictions of at least the threshold."""
    hits = made = 0
    taken: set[int] = set()
    for row in sorted((row for row in found if row["score"] >= threshold), key=lambda row: -row["score"]):
        beside = [t for t in coco["annotations"] if all(t[k] == row[k] for k in ("image_id", "category_id"))]
        overlaps = {t["id"]: overlap(row["bbox"], t["bbox"], bool(t["iscrowd"])) for t in beside}
        free = [t["id"] for t in beside if not t["iscrowd"] and t["id"] not in taken and overlaps[t["id"]] >= 0.5]
        if free:
            taken.add(max(free, key=lambda number: overlaps[number]))
            hits += 1
        elif any(t["iscrowd"] and overlaps[t["id"]] >= 0.5 for t in beside):
            continue
        made += 1
    return hits, made, sum(not t["iscrowd"] for t in coco["annotations"])


def of_category(rows: list[dict[str, Any]], category: int | None) -> list[dict[str, Any]]:
    return [row for row in rows if category in (None, row["category_id"])]


@pytest.mark.parametrize("digits", [1, 2, 9])
def test_no_other_threshold_does_better(digits: int) -> None:
    coco, found = scene()
    # Of one digit most scores tie.
    found = [{**row, "score": round(row["score"], digits)} for row in found]
    random.Random(digits).shuffle(found)
    points = operating_points(coco, found)
    for category, point in ((None, points.overall), (3, points.per_class["a"]), (9, points.per_class["b"])):
        truth = {**coco, "annotations": of_category(coco["annotations"], category)}
        rows = of_category(found, category)
        f1 = {}
        for threshold in {row["score"] for row in rows}:
            hits, made, boxes = counted(truth, rows, threshold)
            f1[threshold] = 2 * hits / (made + boxes) if made + boxes else 0.0
        assert point.score is not None
        assert point.f1 == pytest.approx(max(f1.values()), abs=1e-12)
        hits, made, boxes = counted(truth, rows, point.score)
        assert (point.precision, point.recall) == pytest.approx((hits / made, hits / boxes), abs=1e-12)
        highest = max(threshold for threshold, value in f1.items() if value == pytest.approx(point.f1, abs=1e-12))
        assert counted(truth, rows, highest)[1] == made
    of_class = [(3, points.per_class["a"]), (9, points.per_class["b"])]
    each = [
        counted({**coco, "annotations": of_category(coco["annotations"], c)}, of_category(found, c), point.score or 0)
        for c, point in of_class
    ]
    hits, made, boxes = (sum(numbers) for numbers in zip(*each, strict=True))
    combined = points.combined
    assert combined.score is None
    assert (combined.precision, combined.recall) == pytest.approx((hits / made, hits / boxes), abs=1e-12)
    assert combined.f1 == pytest.approx(2 * hits / (made + boxes), abs=1e-12)


def test_a_threshold_lies_between_predictions_and_never_parts_equal_scores() -> None:
    assert best_f1([0.8, 0.4], [True, False], 1) == OperatingPoint(pytest.approx(0.6), 1.0, 1.0, 1.0)
    assert best_f1([0.4, 0.8], [False, True], 1).score == pytest.approx(0.6)
    # The wrong one scores as much as the right one: it comes along.
    assert best_f1([0.8, 0.8], [True, False], 1) == OperatingPoint(0.4, 0.5, 1.0, pytest.approx(2 / 3))
    # One of two boxes, or both with two wrong ones: F1 2/3 both ways, and the higher threshold wins.
    assert best_f1([0.9, 0.5, 0.5, 0.5], [True, True, False, False], 2) == OperatingPoint(
        pytest.approx(0.7), 1.0, 0.5, pytest.approx(2 / 3)
    )


def test_classes_of_which_there_is_nothing_fall_back_on_all_classes_together() -> None:
    coco, found = scene()
    coco["categories"] += [{"id": 12, "name": "no box"}, {"id": 13, "name": "no prediction"}]
    coco["annotations"].append({**coco["annotations"][0], "id": 999, "category_id": 13, "iscrowd": 0})
    invented = [{**row, "category_id": 12} for row in found[:5]]
    points = operating_points(coco, found + invented)
    assert points.per_class["no box"] == OperatingPoint(None, None, None, None)
    assert points.per_class["no prediction"] == OperatingPoint(None, None, 0.0, 0.0)
    # What no class can be blamed for is wrong all the same.
    without = operating_points(coco, found)
    assert points.overall.f1 < without.overall.f1
    # Nor is a class without a threshold of its own left out where all are counted together.
    assert points.combined.precision < without.combined.precision
    names = ["a", "no box", "no prediction", "unheard of"]
    overall = points.overall.score
    assert thresholds(points.as_dict(), names) == [points.per_class["a"].score, overall, overall, overall]
    assert thresholds(operating_points(coco, []).as_dict(), names) == [0.5] * 4
    assert thresholds(None, names) == [0.5] * 4
