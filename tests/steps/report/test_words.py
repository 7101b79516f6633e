"""What the page says of a run that learnt nothing, from what its configuration and its log hold."""

from __future__ import annotations

import re
from typing import Any

import pytest

from steps.report.counting import ClassRow, Gap, Totals, totals
from steps.report.matching import Box, ValImage, match
from steps.report.reading import Thresholds
from steps.report.words import advice, annotate_next, facts_of, verdict
from trainer.models.registry import model_info


def said(
    config: dict[str, Any], *, losses: tuple[float, ...] = (9, 5), boxes: int = 3, side: float = 60, **trained: Any
) -> str:
    """The advice for a model whose only prediction is a weak one in a corner."""
    truth = [Box(1, 100 + 3 * n, 100, side, side, side * side) for n in range(boxes)]
    image = ValImage(1, "a.png", 800, 600, truth=truth, predictions=[Box(1, 0, 0, 9, 9, 81, score=0.2)])
    match(image, Thresholds(0.5))
    record = {"config": config, "epochs": 12, "images": {"train": 400}, **trained}
    log = [{"epoch": n + 1, "lr": 1e-4, "train": {"loss": loss}} for n, loss in enumerate(losses)]
    metrics = {"AP": 0.0, "AP50": 0.0}
    facts = facts_of(metrics, record, {}, {1: "a"}, [image], log)
    return " ".join(advice(facts, metrics, record, log, [image], [], totals([image])))


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"pretrained": None}, "random weights (pretrained: none), and from there a detector needs hundreds of epochs"),
        ({"pretrained": "imagenet"}, "Only its backbone was pretrained"),
        ({"pretrained": "coco"}, "look at the learning rate and at the boxes"),
        ({}, "Without pretrained weights"),
    ],
)
def test_the_start_and_the_number_of_epochs(config: dict[str, Any], words: str) -> None:
    text = said(config)
    assert words in text
    assert "this run had 12" in text
    assert ("start from weights trained on COCO" in text) == (config.get("pretrained") != "coco")


def test_the_losses_and_the_learning_rate() -> None:
    assert "fell from 9.00 to 5.00, so it is learning" in said({})
    assert "did not fall (9.00 to 8.90). Try a lower learning rate than 0.0003" in said({"lr": 3e-4}, losses=(9, 8.9))
    assert "stopped being a number in epoch 2" in said({}, losses=(9, float("nan")))


def test_objects_too_small_for_the_size_that_the_model_sees() -> None:
    # 800 x 600 px become 267 x 200, so 60 px become 20 and 30 px become 10.
    sizes = {"image_size": 200, "max_size": 400}
    assert "small for the model" not in said(sizes, side=60)
    text = said(sizes, side=30)
    assert "(image_size 200), 100 % of the boxes are under 16 px" in text
    assert "Raise image_size" in text
    # The longer side sets the scale here: 800 px become 200.
    assert "small for the model" in said({"image_size": 200, "max_size": 200}, side=60)


def test_more_objects_than_the_model_can_find() -> None:
    limit = {"object_limit": {"setting": "num_queries", "value": 3}}
    assert "num_queries" not in said({}, boxes=3, **limit)
    text = said({}, boxes=4, **limit)
    assert "One image has 4 objects, but the model can find 3 in an image at most. Raise num_queries." in text


def test_the_small_model_and_few_images() -> None:
    text = said({"pretrained": None}, model="detr_tiny", model_note=model_info("detr_tiny").note)
    assert "dozens of epochs; this run had 12." in text
    assert "pretrained: coco" not in text
    assert "use ddq_lite0" in text
    assert "use ddq_lite0" not in said({}, model="detr_resnet50")
    assert "20 training images are few" in said({}, images={"train": 20})


def counted(hits: int, missed: int, false_positives: int, **kinds: int) -> Totals:
    return Totals(
        hits, missed, kinds.get("overlooked", 0), false_positives, kinds.get("confused", 0), kinds.get("repeated", 0)
    )


@pytest.mark.parametrize(
    ("sums", "tone", "words"),
    [
        (
            counted(95, 5, 5),
            "good",
            "Finds nearly everything, with few false positives. .* it finds 95 %",
        ),
        (counted(85, 15, 5), "good", "Works well."),
        # The recall alone would do: what it says must follow both.
        (
            counted(98, 2, 94),
            "fair",
            "Finds most objects, with many false positives. .* 51 % of its predictions",
        ),
        (counted(40, 60, 5), "fair", "Misses many objects. .* mostly right"),
        (counted(65, 35, 20), "fair", "Finds most objects. .* pre-labelling"),
        (counted(40, 60, 60), "bad", "Misses many objects, and is often wrong."),
        (counted(10, 90, 90), "bad", "Has only just begun to learn."),
        (counted(0, 100, 0), "bad", "only just begun .* finds 0 % .* no prediction reaches the threshold"),
        (counted(0, 0, 7), "bad", "Nothing could be measured."),
    ],
)
def test_the_headline_follows_precision_and_recall(sums: Totals, tone: str, words: str) -> None:
    said = verdict({"AP": 0.6, "AP50": 0.95}, sums, True, True)
    assert said["tone"] == tone
    assert re.search(words, f"{said['head']} {said['body']}")
    on_training_images = verdict({"AP": 0.6, "AP50": 0.95}, sums, True, False)
    assert on_training_images["tone"] != "good"


def of_errors(sums: Totals, *, boxes: int = 500) -> str:
    metrics = {"AP": 0.6, "AP50": 0.8, "boxes": boxes}
    rows = [
        ClassRow(1, "nut", 0.6, {}, 100, 30, 1, sums.missed, 0, 0.5),
        ClassRow(2, "bolt", 0.6, {}, 100, 900, 1, 0, sums.false_positives, 0.5),
    ]
    facts = facts_of(metrics, {}, {}, {1: "nut", 2: "bolt"}, [], [])
    return " ".join(advice(facts, metrics, {}, [], [], rows, sums))


def test_many_false_positives_and_many_misses() -> None:
    text = of_errors(counted(190, 10, 180, confused=20, repeated=30))
    assert "180 of its 370 predictions are false positives, most of them “bolt”: 130 where no object" in text
    assert "30 on an object that another prediction found already and 20 on an object of another class." in text
    assert "annotate what was left out" in text
    assert "misses" not in text
    assert "predict each object once" in of_errors(counted(190, 10, 180, repeated=100))
    assert "labelled the same way" in of_errors(counted(190, 10, 180, confused=100))
    text = of_errors(counted(100, 60, 2, overlooked=10))
    assert "It misses 60 of 160 objects, most of them “nut”. For most of them it predicts nothing" in text
    assert "false positives" not in text
    assert "50 of them it does predict" in of_errors(counted(100, 60, 2, overlooked=50))
    assert of_errors(counted(100, 2, 2)) == of_errors(counted(2, 2, 2)) == ""
    # One that has only begun to learn is told how to learn, not what to annotate.
    assert "Without pretrained weights" in of_errors(counted(10, 90, 90))
    assert "false positives" not in of_errors(counted(10, 90, 90))


def test_what_to_annotate_next() -> None:
    row = ClassRow(1, "nut", 0.5, {}, 9, 30, 4, 5, 0, 0.5)
    found = [Gap("nut", "small", 6, 4), Gap("bolt", "large", 6, 1), Gap("a", "small", 1, 1), Gap("b", "small", 1, 1)]
    assert annotate_next(counted(6, 7, 1), found, [row]) == [
        "small “nut”: 4 of 6 missed (30 training boxes of any size)",
        "large “bolt”: 1 of 6 missed",
        "small “a”: 1 of 1 missed",
    ]
    assert annotate_next(counted(1, 7, 9), found, [row]) == []
