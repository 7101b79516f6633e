"""Predictions on every image of a loader, and the losses on the way."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from trainer.data.batch import Batch
from trainer.data.data_loader import batches
from trainer.device import Arithmetic
from trainer.models.interface import DetectionModel


class Averages:
    """Means of named figures over the steps that have them, with a state that a checkpoint can hold."""

    def __init__(self) -> None:
        self.sums: dict[str, float] = {}
        self.weights: dict[str, float] = {}
        self.weight = 0.0

    def add(self, figures: dict[str, float], weight: float = 1.0) -> None:
        """Counts one step's figures `weight` times."""
        self.weight += weight
        for name, value in figures.items():
            self.sums[name] = self.sums.get(name, 0.0) + value * weight
            self.weights[name] = self.weights.get(name, 0.0) + weight

    def means(self) -> dict[str, float]:
        """The means so far."""
        return {name: value / self.weights[name] for name, value in self.sums.items() if self.weights[name]}

    def state_dict(self) -> dict[str, Any]:
        """Plain containers."""
        return {"sums": dict(self.sums), "weights": dict(self.weights), "weight": self.weight}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes up where `state_dict` left off."""
        self.sums, self.weight = dict(state["sums"]), float(state["weight"])
        # Older checkpoints have one weight for all.
        self.weights = dict(state.get("weights", dict.fromkeys(self.sums, self.weight)))


@torch.no_grad()
def predict(
    model: DetectionModel,
    loader: Iterable[Batch],
    device: torch.device,
    category_ids: list[int],
    *,
    with_losses: bool = False,
    arithmetic: Arithmetic | None = None,
    after_batch: Callable[[], None] = lambda: None,
) -> tuple[list[dict[str, Any]], Averages]:
    """Predicts on every image of a loader.

    Args:
        model: left in evaluation mode.
        loader: of `Batch`.
        device: where the model is.
        category_ids: the COCO file's id for each label; detections of a label with -1 are left out.
        with_losses: measure the losses as well.
        arithmetic: of the network; None for single precision.
        after_batch: called after each batch. What it raises ends the pass.

    Returns:
        A COCO results list with boxes [x, y, w, h] in px of the original images, and the averages
        over images of the model's `figures`, if they were wanted and the model can tell them in evaluation mode.
    """
    model.eval()
    arithmetic = arithmetic or Arithmetic("fp32", device.type)
    rows: list[dict[str, Any]] = []
    averages = Averages()
    for cpu_batch in batches(loader):
        batch = cpu_batch.to(device)
        with arithmetic.autocast():
            outputs = model(batch.images, batch.padding_mask)
        if with_losses:
            # Every process validates on images of its own, in its own time: its normalizers are not shared.
            figures = model.losses(outputs, batch.targets, model.normalizers(batch.targets))
            if figures:
                values = torch.stack([value.float() for value in figures.values()]).tolist()
                averages.add(dict(zip(figures, values, strict=True)), len(batch.images))
        sizes = torch.stack([target["orig_size"] for target in cpu_batch.targets])
        for target, found in zip(cpu_batch.targets, model.detections(outputs, sizes.to(device)), strict=True):
            rows.extend(_coco_rows(int(target["image_id"]), found, category_ids))
        after_batch()
    return rows, averages


def _coco_rows(image_id: int, found: dict[str, Tensor], category_ids: list[int]) -> list[dict[str, Any]]:
    """One image's detections as COCO results."""
    # On the CPU first: Apple's GPU has no float64.
    corners = found["boxes"].cpu().double()
    boxes = torch.cat([corners[:, :2], corners[:, 2:] - corners[:, :2]], dim=1).tolist()
    return [
        {"image_id": image_id, "category_id": category_ids[label], "bbox": box, "score": score}
        for label, box, score in zip(found["labels"].tolist(), boxes, found["scores"].tolist(), strict=True)
        if category_ids[label] >= 0
    ]
