"""Small batches that the tests of the detector share."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from trainer.models.ddq.model import DdqDetector, build

Batch = tuple[Tensor, Tensor, list[dict[str, Tensor]]]


def target(*rows: tuple[int, float, float, float, float]) -> dict[str, Tensor]:
    """Objects as label, cx, cy, w, h."""
    values = torch.tensor(rows, dtype=torch.float32).reshape(-1, 5)
    return {"labels": values[:, 0].long(), "boxes": values[:, 1:]}


def small_model(num_classes: int = 3, **settings: Any) -> DdqDetector:
    """With random weights from seed 0."""
    torch.manual_seed(0)
    small = {"dim": 32, "num_queries": 20, "candidates": 60, "denoising_queries": 12, "feedforward": 64}
    return build({"model": "ddq_lite0", "num_classes": num_classes, "frozen_norm": True, **small, **settings})


@pytest.fixture
def batch() -> Batch:
    """Three images of 96 x 128 px, the second narrower, the third without objects; objects are plain rectangles."""
    generator = torch.Generator().manual_seed(7)
    images = torch.randint(0, 256, (3, 3, 96, 128), dtype=torch.uint8, generator=generator)
    mask = torch.zeros(3, 96, 128, dtype=torch.bool)
    mask[1, :, 90:] = True
    targets = [target((0, 0.3, 0.4, 0.3, 0.5), (2, 0.75, 0.6, 0.25, 0.3)), target((1, 0.5, 0.5, 0.9, 0.9)), target()]
    colours = torch.tensor([[250, 20, 20], [20, 250, 20], [20, 20, 250]], dtype=torch.uint8)
    for image, objects, width in zip(images, targets, (128, 90, 128), strict=True):
        for label, (cx, cy, w, h) in zip(objects["labels"], objects["boxes"].tolist(), strict=True):
            x0, x1 = round((cx - w / 2) * width), round((cx + w / 2) * width)
            y0, y1 = round((cy - h / 2) * 96), round((cy + h / 2) * 96)
            image[:, y0:y1, x0:x1] = colours[label][:, None, None]
    images[1, :, :, 90:] = 0
    return images, mask, targets


@pytest.fixture
def model() -> DdqDetector:
    """Of three classes and few queries, with random weights and batch normalisation that stays as it is."""
    return small_model()
