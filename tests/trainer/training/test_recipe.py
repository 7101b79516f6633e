from __future__ import annotations

import math
from typing import Any

import pytest

from trainer.config import TrainConfig, parse
from trainer.errors import TrainerError
from trainer.training.recipe import LARGE, Choice, Facts, keep_settings, settle


def config(**fields: Any) -> TrainConfig:
    return TrainConfig.create({"model": "detr_resnet50", **fields}, dataset_dir="data", output_dir="out")


def chosen(choices: list[Choice]) -> dict[str, Any]:
    return {choice.field: choice.value for choice in choices}


def steps(settled: TrainConfig, images: int, processes: int = 1) -> int:
    return settled.epochs * math.ceil(images / (settled.batch_size * processes))


def test_a_few_hundred_images_get_steps_rather_than_epochs():
    few, _ = settle(config(), Facts(images=60, most_boxes=5))
    more, _ = settle(config(), Facts(images=600, most_boxes=5))
    assert few.epochs > more.epochs
    assert steps(few, 60) < steps(more, 600) < 10 * steps(few, 60)


def test_the_farther_the_start_the_longer_the_run():
    facts = Facts(images=300, most_boxes=5)
    lengths = [settle(config(pretrained=start), facts)[0].epochs for start in ("a.pth", "coco", "imagenet", "none")]
    assert lengths == sorted(set(lengths))


def test_what_was_given_stays_and_is_not_explained():
    given = {"epochs": 7, "lr": 3e-4, "ema_decay": 0, "augment": "none", "num_queries": 5, "batch_size": 3}
    settled, choices = settle(config(**given), Facts(images=300, most_boxes=90, gpu_memory=80))
    assert settled.model_dump(include=set(given)) == given
    assert not set(given) & set(chosen(choices))


def test_every_choice_names_its_value_and_its_reason():
    settled, choices = settle(config(), Facts(images=300, most_boxes=90, gpu_memory=80))
    assert {"num_queries", "batch_size", "epochs", "warmup_steps", "augment", "ema_decay"} <= set(chosen(choices))
    for choice in choices:
        assert getattr(settled, choice.field) == choice.value
        assert choice.reason
    # What comes out is a configuration that could have been written by hand.
    assert parse(settled.model_dump()) == settled


@pytest.mark.parametrize(
    ("fields", "images"), [({"recipe": "paper"}, 300), ({}, LARGE)], ids=["asked for", "COCO-sized"]
)
def test_the_paper_s_recipe(fields: dict[str, Any], images: int):
    before = config(**fields)
    settled, choices = settle(before, Facts(images=images, most_boxes=60))
    assert settled == before
    assert choices == []


def test_queries_make_room_for_the_fullest_image():
    settled, _ = settle(config(), Facts(images=300, most_boxes=95))
    assert settled.num_queries >= 1.4 * 95
    assert settle(config(), Facts(images=300, most_boxes=60))[0].num_queries == 100


def test_a_batch_fits_the_gpu_and_leaves_an_epoch_its_steps():
    large = Facts(images=5000, most_boxes=5, gpu_memory=80)
    sizes = [settle(config(), Facts(5000, 5, gpu_memory=memory))[0].batch_size for memory in (4, 12, 24, 80)]
    assert sizes == sorted(sizes)
    assert sizes[0] == 1
    assert settle(config(model="detr_resnet101_dc5"), large)[0].batch_size < sizes[-1]
    assert settle(config(), Facts(100, 5, gpu_memory=80))[0].batch_size <= 100 / 20
    assert settle(config(), Facts(5000, 5))[0].batch_size == 2


def test_the_rate_follows_the_images_a_step():
    rates = [
        settle(config(batch_size=size), Facts(300, 5, processes))[0].lr for size, processes in ((1, 1), (4, 1), (4, 4))
    ]
    assert rates == pytest.approx([2.5e-5, 5e-5, 1e-4])
    assert settle(config(batch_size=4), Facts(300, 5))[0].lr_backbone == pytest.approx(5e-6)
    random = settle(config(batch_size=4, pretrained="none"), Facts(300, 5))[0]
    assert random.lr_backbone == random.lr


def test_a_resumed_run_keeps_what_is_left_out_and_takes_what_may_change(caplog: pytest.LogCaptureFixture):
    facts = Facts(300, 90, gpu_memory=80)
    first, choices = settle(config(lr=3e-4, lr_drop=5), facts)
    before, given = first.model_dump(mode="json"), sorted(first.model_fields_set)
    # The machine has no GPU now; nothing of the run changes for it.
    kept = keep_settings(config(), before, given)
    assert settle(kept, Facts(400, 20), before) == (first, [])
    assert kept.model_fields_set == first.model_fields_set
    assert "batch_size" in chosen(choices)

    with caplog.at_level("INFO"):
        changed = keep_settings(config(epochs=7), before, given)
    assert (changed.epochs, changed.drop_epoch, changed.lr) == (7, 5, 3e-4)
    assert changed.model_dump(exclude={"epochs"}) == first.model_dump(exclude={"epochs"})
    assert f"epochs is now 7 ({first.epochs} before)" in caplog.text
    assert "lr stays 0.0003, as given before" in caplog.text
    with pytest.raises(TrainerError, match="max_size 900 is below image_size 1000"):
        keep_settings(config(max_size=900), {**before, "image_size": 1000}, given)


def test_what_a_run_starts_from_is_called_by_its_name():
    reasons = {}
    for start in ("published", "run/best.pth", "none"):
        _, choices = settle(config(model="hf:x/y", pretrained=start), Facts(300, 5))
        (reasons[start],) = (choice.reason for choice in choices if choice.field == "epochs")
    assert reasons["published"].startswith("from published weights, ")
    assert reasons["run/best.pth"].startswith("from a checkpoint, ")
    assert reasons["none"].startswith("from random weights, ")


def test_images_smaller_than_the_model_s_size_are_not_enlarged():
    sizes = {}
    for side in (40, 90, 200, 250, 900):
        settled, _ = settle(config(model="ddq_lite0"), Facts(300, 5, shorter_side=side))
        sizes[side] = (settled.image_size, settled.max_size)
    assert sizes == {40: (64, 128), 90: (96, 192), 200: (224, 416), 250: (256, 448), 900: (256, 448)}
    given = config(model="ddq_lite0", image_size=320)
    assert settle(given, Facts(300, 5, shorter_side=90))[0].image_size == 320
    assert settle(config(), Facts(300, 5, shorter_side=90))[0].image_size == 800


@pytest.mark.parametrize(
    ("side", "share", "gpu_memory", "expected"),
    [
        (480, 0.2, None, (256, 448)),
        (480, 0.045, None, (384, 672)),
        (256, 0.026, None, (512, 896)),
        (2000, 0.01, None, (512, 896)),
        (2000, 0.01, 80, (1024, 1792)),
        # Nothing is seen in pixels that are made up.
        (120, 0.04, None, (224, 416)),
        (90, 0.3, None, (96, 192)),
        (480, None, None, (256, 448)),
    ],
)
def test_small_objects_get_more_pixels(
    side: float, share: float | None, gpu_memory: float | None, expected: tuple[int, int]
):
    facts = Facts(300, 5, gpu_memory=gpu_memory, shorter_side=side, smallest_class=share and ("seed", share))
    settled, choices = settle(config(model="ddq_lite0"), facts)
    assert (settled.image_size, settled.max_size) == expected
    assert settle(config(), facts)[0].image_size == 800
    assert settle(config(model="ddq_lite0", image_size=320), facts)[0].image_size == 320
    reasons = [choice.reason for choice in choices if choice.field == "image_size"]
    assert ("half of class seed would be" in " ".join(reasons)) == (share is not None and share < 0.05)
