"""Which images to annotate next, of predictions made up for the purpose."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch

from steps.predictions.ranking import Aggregate, Assessed, Ranked, assess, farthest_first, rank

FAR_AWAY = [[100.0 * column, 0.0, 100.0 * column + 50, 50.0] for column in range(9)]


def image(
    *scores: float, labels: Sequence[int] | None = None, boxes: Sequence[list[float]] = FAR_AWAY, angle: float = 0
) -> Assessed:
    """An image, by default of nuts that do not overlap; its features point in a direction in degrees."""
    radians = torch.tensor(angle).deg2rad()
    found = {
        "scores": torch.tensor(scores),
        "labels": torch.tensor(labels or [0] * len(scores), dtype=torch.int64),
        "boxes": torch.tensor(boxes[: len(scores)]).reshape(-1, 4),
        "features": 3 * torch.stack([radians.cos(), radians.sin()]),
    }
    return assess(found, [0.4, 0.8], ["nut", "bolt"])


def ranked(*images: Assessed, by: Aggregate = "sum") -> list[Ranked]:
    return rank(images, len(images), by=by)


def uncertainty(*images: Assessed, by: Aggregate = "sum") -> list[float]:
    """By image."""
    return [each.uncertainty for each in sorted(ranked(*images, by=by), key=lambda each: each.index)]


def test_a_score_at_its_class_threshold_is_the_most_uncertain() -> None:
    scores = [0.4, 0.7, 1.0, 0.3]
    assert uncertainty(*(image(score) for score in scores)) == pytest.approx([1, 0.5, 0, 0.75], abs=1e-6)
    # With a bolt's threshold they say something else.
    bolts = [image(score, labels=[1]) for score in (0.8, 0.9, 1.0, 0.6)]
    assert uncertainty(*bolts) == pytest.approx([1, 0.5, 0, 0.75], abs=1e-6)


def test_background_does_not_count_however_much_there_is_of_it() -> None:
    assert uncertainty(image(0.7, *[0.19] * 8), image(0.4)) == pytest.approx([0.5, 1])


def test_boxes_add_up_or_the_mean_or_the_most_doubtful_counts() -> None:
    images = [image(0.7, 0.4, 1.0), image(0.7, 0.7)]
    assert uncertainty(*images) == pytest.approx([1.5, 1])
    assert uncertainty(*images, by="mean") == pytest.approx([0.5, 0.5])
    assert uncertainty(*images, by="max") == pytest.approx([1, 0.5])


def test_two_classes_in_one_place_are_a_doubt_although_both_are_sure() -> None:
    same = [[0.0, 0, 50, 50], [0.0, 0, 50, 45]]
    (two,) = ranked(image(0.88, 0.98, labels=[0, 1], boxes=same))
    # Certainties of 0.9 and 0.95: the margin is 0.05.
    assert two.uncertainty == pytest.approx(0.95)
    assert two.reason == "1 doubtful box: bolt 0.98 or nut 0.88"
    # Apart, or of one class, neither is in doubt.
    assert uncertainty(image(0.88, 0.98, labels=[0, 1])) == pytest.approx([0.2 + 0.1])
    assert uncertainty(image(0.88, 0.98, boxes=same)) == pytest.approx([0.04 / 1.2], abs=1e-5)


def test_an_image_where_nothing_is_found_counts_as_likely_missed_as_the_others_are_full() -> None:
    found, nothing = image(1.0), image(0.01)
    assert uncertainty(found, found, found, nothing)[3] == 0.75
    assert uncertainty(found, nothing, nothing, nothing)[3] == 0.25
    assert uncertainty(nothing, nothing) == [0, 0]
    # What was nearly found says more.
    (nearly, *_) = ranked(image(0.36), found)
    assert nearly.uncertainty == pytest.approx(0.9)
    assert nearly.reason == "nothing found, while 50% of the images have something; 1 doubtful box: nut 0.36"
    assert uncertainty(image(), found) == [0.5, 0]


def test_of_images_that_are_alike_one_comes_first() -> None:
    """Four frames of one scene, the most uncertain of all, and two others."""
    scene = [image(0.4, angle=angle) for angle in (0, 1, 2, 3)]
    chosen = rank([image(0.3, angle=90), *scene, image(0.35, angle=45)], 3)
    assert [each.index for each in chosen] == [1, 0, 5]
    assert [each.index for each in rank(scene, 2)] == [0, 3]


def test_a_sure_image_is_not_chosen_for_being_different() -> None:
    images = [image(0.4, 0.4, angle=angle) for angle in range(8)] + [image(1.0, angle=90)]
    assert [each.index for each in rank(images, 2)] == [0, 7]
    assert [each.index for each in rank(images, 2, candidates=None)] == [0, 8]


def test_there_may_be_fewer_images_than_are_wanted_or_none() -> None:
    assert [each.index for each in rank([image(1.0), image(0.4)], 5)] == [1, 0]
    assert rank([], 5) == []


def test_reasons_are_in_words() -> None:
    (one,) = ranked(image(0.4, 0.5, 0.3, 0.45, 0.99, labels=[0, 0, 0, 0, 1]))
    assert one.reason == "4 doubtful boxes: nut 0.40, nut 0.45, nut 0.50, ...; 1 sure"
    assert ranked(image(0.99))[0].reason == "1 sure"


def test_scores_that_are_no_numbers_are_no_boxes() -> None:
    assert uncertainty(image(float("nan"), 0.7)) == pytest.approx([0.5])


def test_farthest_first_spreads_over_the_points() -> None:
    points = torch.tensor([[0.0], [1.0], [10.0], [9.0], [5.0], [5.0]])
    assert farthest_first(points, 6) == [0, 2, 4, 1, 3, 5]
    assert farthest_first(points, 9) == farthest_first(points, 6)
