"""What the page counts, against COCO's own evaluation and against sums that must hold."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import pytest

from steps.report.counting import (
    Gap,
    Totals,
    balance,
    class_rows,
    confusion,
    gaps,
    precision_by_class,
    size_rows,
    totals,
)
from steps.report.matching import ValImage, collect, match
from steps.report.reading import Thresholds, thresholds_of
from trainer.evaluation.coco_metrics import coco_metrics
from trainer.evaluation.operating_point import operating_points

NAMES = {3: "a", 9: "b", 5: "c"}


def scene(seed: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Boxes of all sizes on ten images, a few of them crowds, and detections near them and anywhere."""
    rng = random.Random(seed)
    truth: list[dict[str, Any]] = []
    found = []
    for image_id in range(1, 11):
        for _ in range(rng.randint(0, 6)):
            side = rng.choice([12, 50, 120])
            x, y = rng.uniform(0, 300 - side), rng.uniform(0, 300 - side)
            category = rng.choice([3, 9])
            row = {"image_id": image_id, "category_id": category, "bbox": [x, y, side, side]}
            truth.append({**row, "id": len(truth) + 1, "area": side**2, "iscrowd": int(rng.random() < 0.1)})
            for shift in (0.03, 0.2, 0.9):
                label = category if rng.random() < 0.8 else rng.choice([3, 5, 9])
                bbox = [x + shift * side, y, side, side]
                found.append(
                    {"image_id": image_id, "category_id": label, "bbox": bbox, "score": round(rng.random(), 1)}
                )
    images = [{"id": image_id, "width": 300, "height": 300, "file_name": ""} for image_id in range(1, 11)]
    categories = [{"id": key, "name": name} for key, name in NAMES.items()]
    return {"images": images, "annotations": truth, "categories": categories}, found


EACH_ITS_OWN = Thresholds(0.5, {3: 0.3, 9: 0.7})


def matched(coco: dict[str, Any], found: list[dict[str, Any]], thresholds: Thresholds = EACH_ITS_OWN) -> list[ValImage]:
    _, images = collect(coco, found)
    for image in images:
        match(image, thresholds)
    return images


@pytest.mark.parametrize("seed", range(10))
def test_the_area_under_a_curve_is_the_average_precision(seed: int) -> None:
    coco, found = scene(seed)
    _, per_class = coco_metrics(coco, found)
    images = matched(coco, found)
    for strict, name in ((False, "AP50"), (True, "AP75")):
        curves = precision_by_class(images, strict=strict)
        assert set(curves) == {3, 9}
        for category, curve in curves.items():
            assert sum(curve) / 101 == pytest.approx(per_class[category][name], abs=1e-9)
            assert curve == sorted(curve, reverse=True)


@pytest.mark.parametrize("seed", range(10))
def test_every_box_and_every_prediction_is_counted_once(seed: int) -> None:
    coco, found = scene(seed)
    images = matched(coco, found)
    cells = confusion(images)
    objects = Counter(a["category_id"] for a in coco["annotations"] if not a["iscrowd"])
    for category in NAMES:
        assert sum(n for (true, _), n in cells.items() if true == category) == objects[category]
    made = Counter(
        box.category
        for image in images
        for box, index in zip(image.predictions, image.found, strict=True)
        if index != -2 and box.score >= EACH_ITS_OWN.of(box.category)
    )
    for category in NAMES:
        assert sum(n for (_, predicted), n in cells.items() if predicted == category) == made[category]
    for row in class_rows(NAMES, images, {}, {}, EACH_ITS_OWN):
        assert cells[row.id, row.id] == row.hits
        assert row.hits + row.missed == objects[row.id]
        assert row.hits + row.false_positives == made[row.id]
    sums, sizes = totals(images), size_rows(images)
    assert (sums.boxes, sums.made) == (sum(objects.values()), sum(made.values()))
    assert sum(gap.missed for gap in gaps(NAMES, images)) == sums.missed >= sums.overlooked
    assert sums.confused + sums.repeated <= sums.false_positives
    assert [row.boxes for row in sizes] == [
        sum(a["area"] == side**2 and not a["iscrowd"] for a in coco["annotations"]) for side in (12, 50, 120)
    ]
    assert sum(row.missed for row in sizes) == sums.missed
    assert sum(row.false_positives for row in sizes) == sums.false_positives


def test_a_false_positive_on_a_missed_object_of_another_class_is_a_mix_up() -> None:
    def box(category: int, x: int, **more: Any) -> dict[str, Any]:
        return {"image_id": 1, "category_id": category, "bbox": [x, 0, 20, 20], **more}

    coco = {
        "images": [{"id": 1}],
        "categories": [],
        "annotations": [box(3, 0), box(3, 100), box(9, 200), box(3, 300, iscrowd=1)],
    }
    found = [
        box(3, 1, score=0.9),  # right
        box(9, 2, score=0.9),  # on an object that is found already: from nothing
        box(9, 101, score=0.8),  # mixed up
        box(9, 201, score=0.4),  # right, but not sure enough
        box(3, 300, score=0.9),  # in a crowd: ignored
        box(3, 400, score=0.6),  # from nothing
    ]
    assert confusion(matched(coco, found)) == {(3, 3): 1, (None, 9): 1, (3, 9): 1, (9, None): 1, (None, 3): 1}


@pytest.mark.parametrize("seed", range(3))
def test_the_points_that_the_evaluation_gives_are_reached_in_the_counts(seed: int) -> None:
    coco, found = scene(seed)
    points = operating_points(coco, found)
    thresholds = thresholds_of({"operating_points": points.as_dict()}, NAMES)
    for row in class_rows(NAMES, matched(coco, found, thresholds), {}, {}, thresholds):
        point = points.per_class[row.name]
        if point.score is not None:
            assert (row.threshold, row.precision, row.recall) == (point.score, point.precision, point.recall)
    sums = totals(matched(coco, found, thresholds_of({}, NAMES, points.overall.score)))
    assert (sums.precision, sums.recall) == (points.overall.precision, points.overall.recall)


def test_what_is_missed_most_comes_first() -> None:
    def box(category: int, side: int, x: int) -> dict[str, Any]:
        return {"image_id": 1, "category_id": category, "bbox": [x, 0, side, side], "area": side**2}

    truth = [box(3, 20, 0), box(3, 20, 50), box(3, 50, 100), box(9, 120, 200), box(9, 120, 400)]
    coco = {"images": [{"id": 1}], "categories": [], "annotations": truth}
    found = [{**truth[3], "score": 0.9}, {**truth[3], "score": 0.8}, {**truth[4], "score": 0.2}]
    images = matched(coco, found)
    assert gaps(NAMES, images) == [Gap("a", "small", 2, 2), Gap("a", "medium", 1, 1), Gap("b", "large", 2, 1)]
    assert totals(images) == Totals(hits=1, missed=4, overlooked=1, false_positives=1, confused=0, repeated=1)


def test_precision_and_recall_over_the_scores() -> None:
    row = {"image_id": 1, "category_id": 3}
    truth = [{**row, "bbox": [30 * n, 0, 20, 20]} for n in range(5)]
    coco = {"images": [{"id": 1}], "categories": [], "annotations": truth}
    right = [{**box, "score": 0.71 + 0.02 * n} for n, box in enumerate(truth)]
    wrong = [{**box, "bbox": [30 * n, 90, 20, 20], "score": 0.35} for n, box in enumerate(truth)]
    found = balance(matched(coco, right + wrong))
    assert found is not None
    at = {score: (found.precision[place], found.recall[place]) for place, score in enumerate(found.scores)}
    assert (at[0.35], at[0.36], at[0.9]) == ((0.5, 1), (1, 1), (None, 0))
    assert balance(matched(coco, wrong)) is None
