"""A family of detectors that shares nothing with DETR: one box a grid cell, from colours alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from torch.nn import functional

from trainer.models.family import Family, ModelInfo
from trainer.models.interface import DetectionModel, Target


class ToySettings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
    cells: int = Field(4, ge=1, description="Cells per side")
    noise: float = Field(0.1, ge=0, description="Noise in training, so that a resume has to restore the generator")


class ToyDetector(DetectionModel):
    figures = ("loss", "where", "what")
    pixel_mean, pixel_std = (127.5, 127.5, 127.5), (127.5, 127.5, 127.5)

    def __init__(self, spec: Mapping[str, Any]) -> None:
        super().__init__()
        self.spec = dict(spec)
        self.cells, self.noise = spec["cells"], spec["noise"]
        self.backbone = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU())
        self.head = nn.Conv2d(16, spec["num_classes"] + 1 + 4, 1)

    def forward(self, images: Tensor, mask: Tensor, targets: Sequence[Target] | None = None) -> tuple[Tensor, Tensor]:
        assert (targets is not None) == self.training
        features = self.backbone(self.normalize(images, mask))
        if self.training:
            features = features + self.noise * torch.randn_like(features)
        cells = functional.adaptive_avg_pool2d(self.head(features), self.cells).flatten(2).transpose(1, 2).float()
        return cells[..., :-4], cells[..., -4:].sigmoid()

    def normalizers(self, targets: Sequence[Target]) -> Tensor:
        return torch.tensor([sum(len(target["labels"]) for target in targets), len(targets)], dtype=torch.float32)

    def losses(
        self, outputs: tuple[Tensor, Tensor], targets: Sequence[Target], normalizers: Tensor
    ) -> dict[str, Tensor]:
        logits, boxes = outputs
        wanted = torch.full(logits.shape[:2], logits.shape[-1] - 1, device=logits.device)
        where = boxes.sum() * 0
        for image, target in enumerate(targets):
            column, row = (target["boxes"][:, :2] * self.cells).long().clamp(0, self.cells - 1).unbind(1)
            wanted[image, row * self.cells + column] = target["labels"]
            where = where + (boxes[image, row * self.cells + column] - target["boxes"]).abs().sum()
        what = functional.cross_entropy(logits.flatten(0, 1), wanted.flatten(), reduction="sum")
        where, what = where / normalizers[0].clamp(min=1), what / (normalizers[1] * self.cells**2)
        return {"loss": where + what, "where": where, "what": what}

    @torch.no_grad()
    def detections(self, outputs: tuple[Tensor, Tensor], sizes: Tensor) -> list[dict[str, Tensor]]:
        scores, labels = outputs[0].softmax(-1)[..., :-1].max(-1)
        centre, half = outputs[1][..., :2], outputs[1][..., 2:] / 2
        boxes = torch.cat([centre - half, centre + half], -1) * sizes.flip(1).repeat(1, 2)[:, None]
        return [{"scores": s, "labels": c, "boxes": b} for s, c, b in zip(scores, labels, boxes, strict=True)]


build = ToyDetector
TOY = Family(
    "toy",
    f"{__name__}.ToySettings",
    __name__,
    {"toy_grid": ModelInfo({"pretrained": None, "image_size": 64, "lr": 1e-3})},
)
