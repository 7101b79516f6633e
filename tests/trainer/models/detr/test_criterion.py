from __future__ import annotations

import pytest
import torch

from tests.trainer.building import losses_of
from trainer.models.detr.criterion import SetCriterion

CLASSES, QUERIES, SIZES = 3, 6, [2, 0, 4]


def random_batch(layers: int, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> torch.Tensor:
        return torch.rand(*shape, generator=generator)

    def prediction() -> dict[str, torch.Tensor]:
        return {
            "pred_logits": 4 * draw(len(SIZES), QUERIES, CLASSES + 1) - 2,
            "pred_boxes": 0.1 + 0.5 * draw(len(SIZES), QUERIES, 4),
        }

    outputs = prediction()
    outputs["aux_outputs"] = [prediction() for _ in range(layers - 1)]
    targets = [
        {
            "labels": torch.randint(CLASSES, (size,), generator=generator),
            "boxes": 0.1 + 0.5 * draw(size, 4),
        }
        for size in SIZES
    ]
    return outputs, targets


def test_images_without_objects_only_teach_silence():
    outputs, _ = random_batch(layers=1)
    targets = [{"labels": torch.zeros(0, dtype=torch.int64), "boxes": torch.zeros(0, 4)} for _ in SIZES]
    for tensor in (outputs["pred_logits"], outputs["pred_boxes"]):
        tensor.requires_grad_()
    criterion = SetCriterion(CLASSES)
    losses = losses_of(criterion, outputs, targets)
    losses["loss"].backward()
    assert losses["loss_bbox"] == losses["loss_giou"] == 0
    assert losses["loss_ce"] > 0
    assert torch.isfinite(outputs["pred_logits"].grad).all()
    assert (outputs["pred_logits"].grad[..., -1] < 0).all()


def test_perfect_predictions_cost_almost_nothing():
    _, targets = random_batch(layers=1)
    logits = torch.zeros(len(SIZES), QUERIES, CLASSES + 1)
    logits[..., -1] = 20
    boxes = torch.full((len(SIZES), QUERIES, 4), 0.5)
    for image, target in enumerate(targets):
        for thing, label in enumerate(target["labels"]):
            logits[image, thing] = 0
            logits[image, thing, label] = 20
            boxes[image, thing] = target["boxes"][thing]
    losses = losses_of(SetCriterion(CLASSES), {"pred_logits": logits, "pred_boxes": boxes}, targets)
    assert all(value.item() == pytest.approx(0, abs=1e-5) for value in losses.values())
