"""One pass over the data: forwards and backwards to learn, forwards only to predict."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from trainer.criterion import SetCriterion
from trainer.data import Batch
from trainer.detr import post_process
from trainer.errors import TrainerError
from trainer.loading import batches


class Averages:
    """Means of named figures over steps, with a state that a checkpoint can hold."""

    def __init__(self) -> None:
        self.sums: dict[str, float] = {}
        self.weight = 0.0

    def add(self, figures: dict[str, float], weight: float = 1.0) -> None:
        """Counts one step's figures `weight` times."""
        self.weight += weight
        for name, value in figures.items():
            self.sums[name] = self.sums.get(name, 0.0) + value * weight

    def means(self) -> dict[str, float]:
        """The means so far."""
        return {name: value / self.weight for name, value in self.sums.items()} if self.weight else {}

    def state_dict(self) -> dict[str, Any]:
        """Plain containers."""
        return {"sums": dict(self.sums), "weight": self.weight}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes up where `state_dict` left off."""
        self.sums, self.weight = dict(state["sums"]), float(state["weight"])


_LAST_LAYER = ("loss_ce", "loss_bbox", "loss_giou", "class_error", "cardinality_error")


def train_one_epoch(
    model: nn.Module,
    criterion: SetCriterion,
    optimizer: torch.optim.Optimizer,
    loader: Iterable[Batch],
    device: torch.device,
    *,
    clip_max_norm: float,
    before_step: Callable[[], None],
    after_step: Callable[[dict[str, float], int], None],
) -> None:
    """Takes an optimizer step on every batch of the loader.

    Args:
        model: in any mode; left in training mode.
        criterion: on the device.
        optimizer: of the model's parameters.
        loader: of `Batch`.
        device: where the model is.
        clip_max_norm: gradient norm to clip at (appendix A.4); 0 never clips.
        before_step: called ahead of each step, to set the learning rate.
        after_step: called after each with its figures (`loss`, the weighted sum over all layers; the last
            layer's losses, unweighted; `class_error`, `cardinality_error`, `grad_norm`) and the number of
            images. What it raises ends the epoch.

    Raises:
        TrainerError: the loss or the gradient is not finite; the weights are those before that step.
    """
    model.train()
    for cpu_batch in batches(loader):
        before_step()
        batch = cpu_batch.to(device)
        losses = criterion(model(batch.images, batch.padding_mask), batch.targets)
        loss = criterion.weighted(losses)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        limit = clip_max_norm if clip_max_norm > 0 else math.inf
        grad_norm = nn.utils.clip_grad_norm_(model.parameters(), limit)
        figures = _to_host({"loss": loss, **_pick(losses), "grad_norm": grad_norm})
        for name in ("loss", "grad_norm"):
            if not math.isfinite(figures[name]):
                what = "loss" if name == "loss" else "gradient"
                raise TrainerError(
                    f"the {what} is {figures[name]}; training stops"
                    " (lower lr, or look for broken boxes or images in the dataset)"
                )
        optimizer.step()
        after_step(figures, len(batch.images))


@torch.no_grad()
def predict(
    model: nn.Module,
    loader: Iterable[Batch],
    device: torch.device,
    category_ids: list[int],
    *,
    criterion: SetCriterion | None = None,
    after_batch: Callable[[], None] = lambda: None,
) -> tuple[list[dict[str, Any]], dict[str, float]]:
    """Predicts on every image of a loader.

    Args:
        model: left in evaluation mode.
        loader: of `Batch`.
        device: where the model is.
        category_ids: the COCO file's id for each label; detections of a label with -1 are left out.
        criterion: to measure the losses as well.
        after_batch: called after each batch. What it raises ends the pass.

    Returns:
        A COCO results list with boxes [x, y, w, h] in px of the original images, and with a criterion the
        mean figures over images, named as in `train_one_epoch`.
    """
    model.eval()
    rows: list[dict[str, Any]] = []
    averages = Averages()
    for cpu_batch in batches(loader):
        batch = cpu_batch.to(device)
        outputs = model(batch.images, batch.padding_mask)
        if criterion is not None:
            losses = criterion(outputs, batch.targets)
            figures = {"loss": criterion.weighted(losses), **_pick(losses)}
            averages.add(_to_host(figures), len(batch.images))
        sizes = torch.stack([target["orig_size"] for target in cpu_batch.targets])
        for target, found in zip(cpu_batch.targets, post_process(outputs, sizes.to(device)), strict=True):
            rows.extend(_coco_rows(int(target["image_id"]), found, category_ids))
        after_batch()
    return rows, averages.means()


def _coco_rows(image_id: int, found: dict[str, Tensor], category_ids: list[int]) -> list[dict[str, Any]]:
    """One image's detections as COCO results."""
    corners = found["boxes"].double().cpu()
    boxes = torch.cat([corners[:, :2], corners[:, 2:] - corners[:, :2]], dim=1).tolist()
    return [
        {"image_id": image_id, "category_id": category_ids[label], "bbox": box, "score": score}
        for label, box, score in zip(found["labels"].tolist(), boxes, found["scores"].tolist(), strict=True)
        if category_ids[label] >= 0
    ]


def _pick(losses: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: losses[name] for name in _LAST_LAYER}


def _to_host(figures: dict[str, Tensor]) -> dict[str, float]:
    """All figures with one copy from the device."""
    values = torch.stack([value.detach().float() for value in figures.values()]).tolist()
    return dict(zip(figures, values, strict=True))
