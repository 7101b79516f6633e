from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.trainer.building import build_model
from trainer.config import TrainConfig
from trainer.training.early_stopping import follow
from trainer.training.optimizer import build_optimizer
from trainer.training.train_state import RunState


@pytest.fixture
def state(tmp_path: Path) -> RunState:
    """A run of 40 epochs whose rates fall after 30, with a patience of 3 validations."""
    config = TrainConfig.create(
        dataset_dir=tmp_path, output_dir=tmp_path, model="detr_tiny", epochs=40, lr_drop=30, patience=3
    )
    model = build_model("detr_tiny", 1)
    return RunState(config, [], model, build_optimizer(model, config))


def validate(state: RunState, ap50: float, loss: float) -> None:
    """One more epoch that scored so."""
    figures = {"AP": ap50 / 2, "AP50": ap50, "loss": loss}
    state.position.epoch += 1
    follow(state, figures)
    if ap50 > state.position.best.get("AP50", -1):
        state.position.best = figures


def test_progress_in_ap_or_loss_lets_a_run_go_on(state: RunState):
    for epoch in range(29):
        validate(state, ap50=0.3 if epoch < 10 else 0.01 * epoch + 0.25, loss=5 - 0.1 * epoch)
    assert (state.drop_epoch, state.end_epoch) == (30, 40)


def test_a_stall_drops_the_rates_early_and_a_second_one_ends_the_run(state: RunState):
    validate(state, ap50=0.3, loss=4.0)
    for _ in range(3):
        validate(state, ap50=0.2, loss=4.5)
    # The ten epochs at the low rate stay ten.
    assert (state.drop_epoch, state.end_epoch) == (4, 14)
    validate(state, ap50=0.4, loss=3.5)
    for _ in range(3):
        assert state.position.epoch < state.end_epoch
        validate(state, ap50=0.2, loss=4.5)
    assert state.end_epoch == state.position.epoch == 8


@pytest.mark.parametrize("never", [{"lr_drop": 1000}, {"lr_drop": None, "lr_drop_at": 1.0}])
def test_where_the_rates_never_drop_a_stall_still_leaves_an_epoch_at_the_low_one(
    state: RunState, never: dict[str, Any]
):
    state.config = state.config.model_copy(update=never)
    assert (state.drop_epoch, state.end_epoch) == (40, 40)
    for _ in range(4):
        validate(state, ap50=0.3, loss=4.0)
    assert (state.drop_epoch, state.end_epoch) == (4, 5)


def test_without_patience_nothing_ends_early(state: RunState):
    state.config = state.config.model_copy(update={"patience": 0})
    for _ in range(20):
        validate(state, ap50=0.2, loss=4.5)
    assert (state.drop_epoch, state.end_epoch) == (30, 40)


@pytest.mark.parametrize(
    ("changes", "words"),
    [({}, "start from pretrained weights"), ({"pretrained": "imagenet"}, "a larger image_size (it is 64)")],
)
def test_a_run_that_learns_nothing_is_told_once_what_helps(state: RunState, changes: dict[str, Any], words: str):
    state.config = state.config.model_copy(update={**changes, "patience": 0})
    for epoch in range(20):
        validate(state, ap50=0.0, loss=5 - 0.01 * epoch)
        assert bool(state.position.warnings) == (epoch + 1 >= 12)
    (warning,) = state.position.warnings
    assert warning.startswith("AP50 is still below 0.01 after 12 of 40 epochs")
    assert words in warning


def test_a_resumed_run_keeps_its_early_end_unless_asked_for_other_epochs(state: RunState, tmp_path: Path):
    state.position.drop_epoch, state.position.end_epoch = 4, 14
    state.save_last()
    content = torch.load(state.last_path, weights_only=True)
    state.resume(content)
    assert (state.drop_epoch, state.end_epoch) == (4, 14)
    state.config = state.config.model_copy(update={"epochs": 50})
    state.resume(content)
    assert (state.drop_epoch, state.end_epoch) == (30, 50)
