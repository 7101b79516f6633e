"""Mistakes that were planted in annotations, against a model that sees what is there."""

from __future__ import annotations

import csv
import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from steps.report import write_report
from steps.report.matching import Box, ValImage, overlap
from steps.report.mistakes import KINDS, LOOSE, OVERLOOKED, SWAPPED, disputed, trusted_classes
from steps.report.reading import Thresholds
from tests.steps.report.test_page import Page, write_run

SIDE = 40.0
THRESHOLDS = Thresholds(0.5, {1: 0.4, 2: 0.4})


def scene(number: int, chance: random.Random) -> ValImage:
    """Twelve things in a grid, each annotated as it is, and predicted a pixel or two beside."""
    image = ValImage(number, f"{number}.jpg", 400, 300)
    for place in range(12):
        category, x, y = chance.choice((1, 2)), 100.0 * (place % 4), 100.0 * (place // 4)
        image.truth.append(Box(category, x, y, SIDE, SIDE, SIDE * SIDE))
        beside = (x + chance.uniform(-2, 2), y + chance.uniform(-2, 2))
        image.predictions.append(Box(category, *beside, SIDE, SIDE, SIDE * SIDE, chance.uniform(0.5, 0.95)))
        # What a detector also says, and what no threshold lets through.
        image.predictions.append(Box(3 - category, *beside, SIDE, SIDE, SIDE * SIDE, chance.uniform(0.0, 0.3)))
    return image


def plant(image: ValImage, kind: str, place: int) -> Box:
    """Makes an annotation wrong; gives what was right."""
    right = image.truth[place]
    moved = {"x": right.x + 12, "y": right.y + 10}
    match kind:
        case "object without a box":
            del image.truth[place]
        case "another class":
            image.truth[place] = Box(**{**vars(right), "category": 3 - right.category})
        case _:
            image.truth[place] = Box(**{**vars(right), **moved})
    return right


@pytest.mark.parametrize("seed", [0, 1])
def test_what_was_planted_is_found_and_nothing_else(seed: int) -> None:
    chance = random.Random(seed)
    images = [scene(number, chance) for number in range(30)]
    assert disputed(images, "validation", THRESHOLDS, {1, 2}) == []
    planted = {}
    for number, image in enumerate(images[:21]):
        kind = KINDS[number % 3]
        planted[image.id] = (kind, plant(image, kind, chance.randrange(12)))
    found = disputed(images, "validation", THRESHOLDS, {1, 2})
    assert Counter(each.kind for each in found) == Counter(kind for kind, _ in planted.values())
    for each in found:
        kind, right = planted[each.image.id]
        assert each.kind == kind
        assert overlap(each.predicted, right) > 0.8
        assert each.predicted.category == right.category
        assert 0 < each.dispute <= 1
    order = [(KINDS.index(each.kind), -each.dispute) for each in found]
    assert order == sorted(order)


def test_a_box_far_off_is_loose_and_no_overlooked_object() -> None:
    image = scene(0, random.Random(0))
    right = image.truth[5]
    image.truth[5] = Box(**{**vars(right), "x": right.x + 20, "y": right.y + 8})
    (found,) = disputed([image], "validation", THRESHOLDS, {1, 2})
    assert (found.kind, found.annotated) == (LOOSE, image.truth[5])


def test_who_is_not_trusted_disputes_nothing() -> None:
    image = scene(0, random.Random(0))
    classes = {plant(image, OVERLOOKED, 0).category, plant(image, SWAPPED, 4).category, plant(image, LOOSE, 8).category}
    for trusted in ({1}, {2}, set()):
        found = disputed([image], "validation", THRESHOLDS, trusted)
        assert {each.predicted.category for each in found} == trusted & classes
    points = {"a": {"precision": 0.9}, "b": {"precision": 0.3}, "c": {"precision": None}, "d": "nonsense"}
    names = {1: "a", 2: "b", 3: "c", 4: "d", 5: "e"}
    assert trusted_classes({"operating_points": {"per_class": points}}, names) == {1}
    assert trusted_classes({}, names) == set()


def test_what_is_in_a_crowd_or_said_twice_is_no_mistake() -> None:
    image = scene(0, random.Random(0))
    image.truth.append(Box(1, 100, 100, 300, 200, 60_000, crowd=True))
    image.truth = [box for box in image.truth if box.crowd or box.x < 100 or box.y < 100]
    # Another box on the same thing, which suppression left there.
    first = image.predictions[0]
    image.predictions.append(Box(**{**vars(first), "x": first.x + 3, "score": 0.45}))
    assert disputed([image], "validation", THRESHOLDS, {1, 2}) == []


def rows(output: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((output / "mistakes.csv").open(encoding="utf-8")))


def points(precision: float) -> dict[str, Any]:
    each = {"score": 0.5, "precision": precision, "recall": 0.9, "f1": 0.9}
    return {"operating_points": {"overall": each, "per_class": {"RBC": each, "WBC": each}}}


def test_the_page_shows_them_and_the_table_has_them_all(tmp_path: Path) -> None:
    dataset, output = write_run(tmp_path, metrics=points(0.9))
    write_report(dataset, output)
    assert rows(output) == []
    assert "There is no annotation that the model disputes." in Page((output / "report.html").read_text()).text

    path = dataset / "annotations" / "instances_val.json"
    coco = json.loads(path.read_text())
    # Two on one spot: only one is said to be there.
    (gone, _), coco["annotations"][-2:] = coco["annotations"][-2:], []
    path.write_text(json.dumps(coco))
    (dataset / "annotations" / "instances_train.json").write_text(json.dumps(coco))
    predictions = json.loads((output / "predictions.json").read_text())
    (output / "predictions_train.json").write_text(json.dumps(predictions))
    write_report(dataset, output)
    found = rows(output)
    assert [(row["kind"], row["part"]) for row in found] == [(OVERLOOKED, "validation"), (OVERLOOKED, "training")]
    assert [float(found[0][side]) for side in "xywh"] == pytest.approx(gone["bbox"], abs=0.1)
    page = Page((output / "report.html").read_text())
    assert OVERLOOKED in page.text
    assert page.source.count('id="mistake-') == 2

    metrics = json.loads((output / "metrics.json").read_text())
    (output / "metrics.json").write_text(json.dumps({**metrics, **points(0.3)}))
    write_report(dataset, output)
    assert rows(output) == []
    assert "No class is predicted well enough" in Page((output / "report.html").read_text()).text
