"""What the page says of a run that learnt nothing, from what its configuration and its log hold."""

from __future__ import annotations

from typing import Any

import pytest

from steps.report.matching import Box, ValImage, match
from steps.report.words import advice, facts_of
from trainer.models.registry import model_info


def said(
    config: dict[str, Any], *, losses: tuple[float, ...] = (9, 5), boxes: int = 3, side: float = 60, **trained: Any
) -> str:
    """The advice for a model whose only prediction is a weak one in a corner."""
    truth = [Box(1, 100 + 3 * n, 100, side, side, side * side) for n in range(boxes)]
    image = ValImage(1, "a.png", 800, 600, truth=truth, predictions=[Box(1, 0, 0, 9, 9, 81, score=0.2)])
    match(image, 0.5)
    record = {"config": config, "epochs": 12, "images": {"train": 400}, **trained}
    log = [{"epoch": n + 1, "lr": 1e-4, "train": {"loss": loss}} for n, loss in enumerate(losses)]
    metrics = {"AP": 0.0, "AP50": 0.0}
    facts = facts_of(metrics, record, {}, {1: "a"}, [image], log)
    return " ".join(advice(facts, metrics, record, log, [image], [], None, 0.5))


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
