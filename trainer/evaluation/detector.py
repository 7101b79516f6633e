"""A trained checkpoint as something that takes images and gives boxes."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageOps
from torch import Tensor, nn

from trainer import checkpoint
from trainer.data.batch import pad
from trainer.data.coco_dataset import Category
from trainer.data.images import to_rgb
from trainer.data.transforms import Sample, resize, to_tensor
from trainer.device import pick_device
from trainer.errors import TrainerError
from trainer.evaluation.operating_point import thresholds
from trainer.models.backbones.frozen_norm import mask_of
from trainer.models.interface import DetectionModel
from trainer.models.registry import family


@dataclass
class Detector:
    """A model in evaluation mode, with its classes and the size that it predicts at."""

    model: DetectionModel
    categories: list[Category]
    image_size: int
    max_size: int
    device: torch.device
    thresholds: list[float]
    """The score by label from which a prediction counts: the checkpoint's operating points."""

    @property
    def class_names(self) -> list[str]:
        """Names by label."""
        return [category.name for category in self.categories]

    @property
    def category_ids(self) -> list[int]:
        """Category ids of the training data by label."""
        return [category.id for category in self.categories]

    @torch.inference_mode()
    def predict(
        self, images: Sequence[Image.Image], threshold: float | None = None, *, features: bool = False
    ) -> list[dict[str, Tensor]]:
        """Detects objects in PIL images, as one batch.

        Args:
            images: of any size and mode; one that a camera turned (EXIF) is set upright, as in training.
            threshold: detections that score less are left out. None for `thresholds`, which give each class the best
                F1 on the validation images; 0.5 for all classes where the checkpoint has none, as those of earlier
                versions do not. 0 keeps every detection.
            features: give what the model made of each image as well.

        Returns:
            For each image, best first, `scores` `[n]`, `labels` `[n]` and `boxes` `[n, 4]` (x0, y0, x1, y1
            in px of the upright image, cut at its edge), on the CPU; where asked for, also `features` float32 `[C]`,
            the mean of the last map of the model's `feature_module` over the image without its padding.
        """
        if not images:
            return []
        images = [ImageOps.exif_transpose(image) for image in images]
        resized = [self._resize(image) for image in images]
        batch, mask = (tensor.to(self.device) for tensor in pad([to_tensor(image) for image in resized]))
        sizes = torch.tensor([[image.height, image.width] for image in images], device=self.device)
        seen: list[Tensor] = []
        with _watching(self.model.feature_module(), seen) if features else nullcontext():
            outputs = self.model(batch, mask)
        found = self.model.detections(outputs, sizes)
        by_label = self.thresholds if threshold is None else [threshold] * len(self.categories)
        tidy = [
            _tidy(detections, image.width, image.height, torch.tensor(by_label, dtype=torch.float64))
            for detections, image in zip(found, images, strict=True)
        ]
        if features:
            for detections, mean in zip(tidy, _mean(seen[-1], mask).cpu(), strict=True):
                detections["features"] = mean
        return tidy

    def _resize(self, image: Image.Image) -> Image.Image:
        """The image in RGB at the size that the model was validated at."""
        sample = Sample(to_rgb(image), torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))
        return resize(sample, self.image_size, self.max_size).image


@contextmanager
def _watching(module: nn.Module, maps: list[Tensor]) -> Iterator[None]:
    """Puts the maps and tokens that a module gives into `maps`, last one last."""
    handle = module.register_forward_hook(lambda module, given, output: maps.extend(_maps(output)))
    try:
        yield
    finally:
        handle.remove()


def _maps(output: Any) -> Iterator[Tensor]:
    """Floating tensors `[B, C, h, w]` and `[B, n, C]`, in whatever a module gives."""
    if isinstance(output, Tensor):
        if output.is_floating_point() and output.ndim in (3, 4):
            yield output
    elif isinstance(output, Mapping):
        for value in output.values():
            yield from _maps(value)
    elif isinstance(output, list | tuple):
        for value in output:
            yield from _maps(value)


def _mean(values: Tensor, mask: Tensor) -> Tensor:
    """The mean `[B, C]` of maps over the cells that are not padded, or of tokens over all."""
    if values.ndim == 3:
        return values.float().mean(1)
    inside = ~mask_of(values, mask)[:, None]
    return (values.float() * inside).sum((2, 3)) / inside.sum((2, 3))


def _tidy(detections: dict[str, Tensor], width: int, height: int, thresholds: Tensor) -> dict[str, Tensor]:
    """Sorts by score, drops what scores less than its label's threshold and cuts boxes at the image's edge."""
    detections = {key: value.cpu() for key, value in detections.items()}
    order = detections["scores"].argsort(descending=True, stable=True)
    order = order[detections["scores"][order] >= thresholds[detections["labels"][order]]]
    kept = {key: value[order] for key, value in detections.items()}
    limit = torch.tensor([width, height, width, height], dtype=kept["boxes"].dtype)
    kept["boxes"] = torch.minimum(kept["boxes"].clamp(min=0), limit)
    return kept


def load(path: str | Path, device: str = "auto") -> Detector:
    """Opens a checkpoint that `trainer.train` wrote.

    Args:
        path: of the checkpoint, or of the folder of a run, whose best one is taken. `steps.load` takes the address of
            either in a bucket as well.
        device: as in `TrainConfig.device`.

    Raises:
        TrainerError: the file is missing, damaged, or not one of ours (the authors' checkpoints name no
            classes; start a training from them with `pretrained` instead).
    """
    file = checkpoint.find_checkpoint(path)
    if file is None and os.path.isdir(os.path.expanduser(path)):
        raise TrainerError(f"the folder {path} has no checkpoints/best.pth: give that of a run that has been trained")
    return from_content(checkpoint.read(file or path), file or path, pick_device(device))


def from_content(content: dict[str, Any], path: str | Path, device: torch.device) -> Detector:
    """As `load`, for a checkpoint that has been read from `path`."""
    described = checkpoint.model_in(content)
    missing = {"model", "class_names", "category_ids"} - set(content)
    if missing or described is None:
        raise TrainerError(f"checkpoint {path} has no '{min(missing, default='spec')}'; use one that a training wrote")
    family_name, spec = described
    with checkpoint.using(path):
        model = family(family_name).build(spec)
        model.load_state_dict(content["model"])
        categories = [
            Category(category_id, name)
            for category_id, name in zip(content["category_ids"], content["class_names"], strict=True)
        ]
        return Detector(
            model.to(device).eval(),
            categories,
            content["image_size"],
            content["max_size"],
            device,
            thresholds(content.get("operating_points"), content["class_names"]),
        )
