from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests.trainer.building import build_model
from trainer.data.batch import Batch
from trainer.data.coco_dataset import CocoDetection
from trainer.data.data_loader import eval_loader
from trainer.data.transforms import EvalTransform
from trainer.device import Arithmetic
from trainer.errors import TrainerError
from trainer.evaluation.predict import Averages, predict
from trainer.models.detr.model import DETR
from trainer.training.train_step import Learner, train_one_epoch

CPU = torch.device("cpu")


@pytest.fixture
def dataset(dataset_dir: Path) -> CocoDetection:
    return CocoDetection(dataset_dir / "annotations" / "instances_train.json", EvalTransform(64, 64))


def test_averages_weigh_and_survive_a_checkpoint():
    averages = Averages()
    averages.add({"loss": 1.0}, 3)
    copy = Averages()
    copy.load_state_dict(averages.state_dict())
    copy.add({"loss": 5.0}, 1)
    assert copy.means() == {"loss": 2.0}
    assert averages.means() == {"loss": 1.0}
    # A figure that a step does not have.
    copy.add({}, 4)
    assert (copy.means(), copy.weight) == ({"loss": 2.0}, 8)
    assert Averages().means() == {}


def learner(model: nn.Module, **fields: Any) -> Learner:
    return Learner(model, torch.optim.SGD(model.parameters(), lr=1.0), CPU, **{"clip_max_norm": 0.1, **fields})


def one_batch(dataset: CocoDetection) -> Batch:
    """All six images, the last without objects."""
    return next(iter(eval_loader(dataset, 6, 0))).to(CPU)


def gradients(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.grad.clone() for name, value in model.named_parameters() if value.grad is not None}


def test_an_epoch_steps_on_every_batch_and_reports_the_norm_before_clipping(dataset: CocoDetection):
    torch.manual_seed(0)
    model = build_model("detr_tiny", 2, aux_loss=True)
    before = {name: value.clone() for name, value in model.named_parameters()}
    seen: list[tuple[dict[str, float], int]] = []
    train_one_epoch(
        learner(model),
        eval_loader(dataset, 6, 0),
        before_step=lambda: None,
        after_step=lambda figures, images, stop: seen.append((figures, images)),
    )
    ((figures, images),) = seen
    assert images == 6
    assert figures["grad_norm"] > 0.1
    # Plain gradient descent at rate 1 moves the weights by the clipped gradient.
    moved = torch.cat([(value - before[name]).flatten() for name, value in model.named_parameters()])
    assert moved.norm().item() == pytest.approx(0.1, rel=1e-3)


@pytest.mark.parametrize("parts", [2, 4, 6])
def test_a_batch_in_parts_is_the_batch(dataset: CocoDetection, parts: int):
    torch.manual_seed(0)
    model = build_model("detr_tiny", 2, aux_loss=True, frozen_norm=True).train()
    whole = learner(model, clip_max_norm=0)
    in_parts = learner(model, clip_max_norm=0, parts=parts)
    batch = one_batch(dataset)
    expected = whole._accumulate(batch)
    wanted = gradients(model)
    figures = in_parts._accumulate(batch)
    for name in model.figures:
        torch.testing.assert_close(figures[name], expected[name])
    for name, value in gradients(model).items():
        torch.testing.assert_close(value, wanted[name], rtol=1e-3, atol=1e-5)


def greedy(monkeypatch: pytest.MonkeyPatch) -> DETR:
    """A model that needs more memory than there is for more than two images."""
    model = build_model("detr_tiny", 2, aux_loss=True)
    forward = model.forward

    def run(images: torch.Tensor, *rest: Any) -> Any:
        if len(images) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(images, *rest)

    monkeypatch.setattr(model, "forward", run)
    return model


def test_a_full_memory_splits_a_batch_that_nobody_asked_for(dataset: CocoDetection, monkeypatch: pytest.MonkeyPatch):
    learning = learner(greedy(monkeypatch), splits_further=True)
    figures, _ = learning.step(one_batch(dataset))
    assert math.isfinite(figures["loss"])
    assert learning.parts == 4


def test_a_full_memory_is_told_in_a_line(dataset: CocoDetection, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(TrainerError, match=r"memory is full with 6 images of 64x64 px in 1 part.*lower batch_size"):
        learner(greedy(monkeypatch)).step(one_batch(dataset))


def test_a_loss_that_is_not_finite_leaves_the_weights(dataset: CocoDetection):
    model = build_model("detr_tiny", 2)
    with torch.no_grad():
        model.class_embed.bias[0] = math.nan
    before = {name: value.clone() for name, value in model.named_parameters()}
    with pytest.raises(TrainerError, match="the loss is nan"):
        learner(model).step(one_batch(dataset))
    for name, value in model.named_parameters():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0, equal_nan=True)


def test_bf16_is_near_fp32(dataset: CocoDetection):
    torch.manual_seed(0)
    model = build_model("detr_tiny", 2, aux_loss=True, frozen_norm=True)
    batch = one_batch(dataset)
    exact = learner(model)._accumulate(batch)
    rough = learner(model, arithmetic=Arithmetic("bf16", "cpu"))._accumulate(batch)
    assert rough["loss"].item() == pytest.approx(exact["loss"].item(), rel=0.05)
    assert rough["loss"].item() != exact["loss"].item()


def test_a_step_that_the_scaler_passes_over_has_no_norm(dataset: CocoDetection):
    model = build_model("detr_tiny", 2, aux_loss=True)
    before = {name: value.clone() for name, value in model.named_parameters()}
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127)
    figures, _ = learner(model, scaler=scaler).step(one_batch(dataset))
    assert all(math.isfinite(value) for value in figures.values())
    assert "grad_norm" not in figures
    assert all(torch.equal(value, before[name]) for name, value in model.named_parameters())


@pytest.mark.gpu
def test_fp16_passes_over_a_step_that_overflows(dataset: CocoDetection):
    device = torch.device("cuda")
    model = build_model("detr_tiny", 2, aux_loss=True).to(device)
    arithmetic = Arithmetic("fp16", "cuda")
    scaler = torch.amp.GradScaler("cuda", init_scale=2.0**40)
    learning = Learner(model, torch.optim.SGD(model.parameters(), lr=0.1), device, 0.1, arithmetic, scaler)
    for _ in range(40):
        figures, _ = learning.step(next(iter(eval_loader(dataset, 6, 0))).to(device))
    assert math.isfinite(figures["loss"])
    assert scaler.get_scale() < 2.0**40


def test_predicting_changes_nothing_and_covers_every_image(dataset: CocoDetection):
    model = build_model("detr_tiny", 2, num_queries=4)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    rows, figures = predict(model, eval_loader(dataset, 4, 0), CPU, [4, 17], with_losses=True)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert [row["image_id"] for row in rows] == [image_id for image_id in dataset.image_ids for _ in range(4)]
    means = figures.means()
    assert means["loss"] == pytest.approx(means["loss_ce"] + means["loss_bbox"] + means["loss_giou"], rel=1e-5)


def test_labels_without_an_id_are_left_out(dataset: CocoDetection):
    model = build_model("detr_tiny", 2, num_queries=4)
    assert predict(model, eval_loader(dataset, 4, 0), CPU, [-1, -1])[0] == []


class OnAppleGpu(torch.Tensor):
    """A tensor on a device without float64."""

    def double(self, *_: Any) -> torch.Tensor:
        raise TypeError("Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support float64")

    def cpu(self, *_: Any) -> torch.Tensor:
        return self.as_subclass(torch.Tensor)


def test_float64_is_not_asked_of_the_device(dataset: CocoDetection, monkeypatch: pytest.MonkeyPatch):
    model = build_model("detr_tiny", 2, num_queries=4)
    decode = model.detections

    def detections(*arguments: Any) -> list[dict[str, torch.Tensor]]:
        return [{**found, "boxes": found["boxes"].as_subclass(OnAppleGpu)} for found in decode(*arguments)]

    monkeypatch.setattr(model, "detections", detections)
    assert len(predict(model, eval_loader(dataset, 6, 0), CPU, [4, 17])[0]) == 6 * 4
