from __future__ import annotations

import math

import pytest
import torch

from trainer.models.detr.criterion import SetCriterion
from trainer.models.detr.matcher import HungarianMatcher

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


def plain_giou(a: list[float], b: list[float]) -> float:
    """Generalised IoU of two cx, cy, w, h boxes in plain Python."""
    ax, bx = (a[0] - a[2] / 2, a[0] + a[2] / 2), (b[0] - b[2] / 2, b[0] + b[2] / 2)
    ay, by = (a[1] - a[3] / 2, a[1] + a[3] / 2), (b[1] - b[3] / 2, b[1] + b[3] / 2)
    inter = max(0, min(ax[1], bx[1]) - max(ax[0], bx[0])) * max(0, min(ay[1], by[1]) - max(ay[0], by[0]))
    union = a[2] * a[3] + b[2] * b[3] - inter
    hull = (max(ax[1], bx[1]) - min(ax[0], bx[0])) * (max(ay[1], by[1]) - min(ay[0], by[0]))
    return inter / union - (hull - union) / hull


def plain_losses(prediction, targets, eos_coef: float) -> dict[str, float]:
    """The losses of one layer from equation 2 and appendix A.2, in plain Python numbers (float64)."""
    matches = HungarianMatcher()(prediction, targets)
    ce = weight = l1 = giou = wrong = 0.0
    cardinality = 0.0
    for image, (queries, things) in enumerate(matches):
        thing_of = dict(zip(queries.tolist(), things.tolist(), strict=True))
        seen = 0
        for query in range(QUERIES):
            logits = prediction["pred_logits"][image, query].double().tolist()
            label = targets[image]["labels"][thing_of[query]].item() if query in thing_of else CLASSES
            factor = eos_coef if label == CLASSES else 1.0
            ce += factor * (math.log(sum(math.exp(value) for value in logits)) - logits[label])
            weight += factor
            best = logits.index(max(logits))
            seen += best != CLASSES
            if query in thing_of:
                wrong += best != label
                a = prediction["pred_boxes"][image, query].double().tolist()
                b = targets[image]["boxes"][thing_of[query]].double().tolist()
                l1 += sum(abs(p - q) for p, q in zip(a, b, strict=True))
                giou += 1 - plain_giou(a, b)
        cardinality += abs(seen - SIZES[image])
    count = sum(SIZES)
    return {
        "loss_ce": ce / weight,
        "loss_bbox": l1 / count,
        "loss_giou": giou / count,
        "class_error": 100 * wrong / count,
        "cardinality_error": cardinality / len(SIZES),
    }


@pytest.mark.parametrize("eos_coef", [0.1, 1.0])
def test_losses_equal_a_plain_reference(eos_coef):
    outputs, targets = random_batch(layers=3)
    losses = SetCriterion(CLASSES, eos_coef=eos_coef)(outputs, targets)
    wanted = plain_losses(outputs, targets, eos_coef)
    for index, layer in enumerate(outputs["aux_outputs"]):
        earlier = plain_losses(layer, targets, eos_coef)
        wanted.update({f"{k}_{index}": v for k, v in earlier.items() if k.startswith("loss")})
    assert set(losses) == set(wanted)
    for name, value in wanted.items():
        assert losses[name].item() == pytest.approx(value, rel=1e-5), name


def test_the_weighted_sum_runs_over_all_layers():
    outputs, targets = random_batch(layers=3)
    criterion = SetCriterion(CLASSES, ce_loss_coef=1, bbox_loss_coef=5, giou_loss_coef=2)
    losses = criterion(outputs, targets)
    wanted = sum(
        losses[f"loss_ce{i}"] + 5 * losses[f"loss_bbox{i}"] + 2 * losses[f"loss_giou{i}"] for i in ("", "_0", "_1")
    )
    assert criterion.weighted(losses).item() == pytest.approx(wanted.item(), rel=1e-6)


def test_images_without_objects_only_teach_silence():
    outputs, _ = random_batch(layers=1)
    targets = [{"labels": torch.zeros(0, dtype=torch.int64), "boxes": torch.zeros(0, 4)} for _ in SIZES]
    for tensor in (outputs["pred_logits"], outputs["pred_boxes"]):
        tensor.requires_grad_()
    criterion = SetCriterion(CLASSES)
    losses = criterion(outputs, targets)
    criterion.weighted(losses).backward()
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
    losses = SetCriterion(CLASSES)({"pred_logits": logits, "pred_boxes": boxes}, targets)
    assert all(value.item() == pytest.approx(0, abs=1e-5) for value in losses.values())
