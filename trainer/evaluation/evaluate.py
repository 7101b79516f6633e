"""COCO's twelve numbers for a checkpoint on a split of a dataset."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch

from trainer.checkpoint import read
from trainer.config import Precision
from trainer.data.coco_dataset import CocoDetection, annotation_file
from trainer.data.data_loader import default_workers, eval_loader
from trainer.data.transforms import EvalTransform
from trainer.device import Arithmetic, limit_threads, pick_arithmetic, pick_device
from trainer.errors import TrainerError
from trainer.evaluation.coco_metrics import coco_metrics
from trainer.evaluation.detector import Detector, from_content
from trainer.evaluation.operating_point import OperatingPoints, operating_points
from trainer.evaluation.predict import predict


@dataclass(frozen=True)
class EvaluationResult:
    """What a checkpoint scored on a split."""

    metrics: dict[str, float]
    """The twelve numbers of `coco_metrics.METRICS`, in [0, 1], or -1 where nothing of that size exists."""
    per_class: dict[str, dict[str, float]]
    """For each class name of the split: AP, AP50, AP75, AR100, boxes, images."""
    operating_points: OperatingPoints
    """The score thresholds with the best F1 on this split."""
    predictions: list[dict[str, Any]]
    """COCO results: image_id, category_id (the file's own), bbox [x, y, w, h] in px, score."""
    class_names: list[str]
    """The model's, by label."""
    category_ids: list[int]
    """The split's id for each of them; -1 for a class that the split does not list."""
    images: int
    boxes: int
    seconds: float
    data: str
    """Digest of the split (`trainer.data.fingerprint`)."""
    trained_on: dict[str, str]
    """Digests of the dataset that the checkpoint was trained on; empty where an earlier version trained it."""


def evaluate(
    dataset_dir: str | Path,
    checkpoint: str | Path,
    *,
    split: str = "val",
    images_root: str | Path | None = None,
    batch_size: int | None = None,
    device: str | None = None,
    precision: Precision | None = None,
    workers: int | Literal["auto"] = "auto",
    same_data: bool = False,
) -> EvaluationResult:
    """Predicts on a split and scores the predictions (COCO detection metrics; section 4 of the paper).

    Args:
        dataset_dir: holds `annotations/instances_<split>.json`.
        checkpoint: of `trainer.train`. Its classes are found in the split by id and name, else by name.
        split: which file to evaluate on.
        images_root: what a relative `file_name` starts from; None for `dataset_dir`.
        batch_size: images a batch, None for 8. Padding makes the last digits of the numbers depend on it.
        device: as in `TrainConfig`; None for that of the run, or for `auto` where this machine does not have it.
        precision: likewise.
        workers: processes that load images, as in `TrainConfig`.
        same_data: refuse a split other than the one of this name that the checkpoint was trained with: images of it
            may have been trained on, and its numbers are not those of the run.

    Raises:
        TrainerError: a file is missing or damaged, or the split has boxes of a class that the model does
            not know, or is not that of `same_data`.
    """
    started = time.monotonic()
    opened = _open(Path(dataset_dir), checkpoint, split, images_root, device, precision)
    dataset, trained_on = opened.dataset, opened.trained_on
    if same_data and trained_on.get(split, dataset.digest) != dataset.digest:
        raise TrainerError(
            f"{checkpoint} was trained with dataset {trained_on['dataset'][:12]}, and {dataset.path} is of"
            f" {str(dataset.info.get('dataset_digest', 'another'))[:12]}; train again into another output folder, or"
            f" evaluate it on other data on purpose: --checkpoint {checkpoint}"
        )
    if not len(dataset):
        raise TrainerError(f"{dataset.path} has no images to evaluate on")
    predictions = opened.predict(batch_size, workers)
    metrics, per_id = coco_metrics(dataset.coco, predictions)
    names = {category.id: category.name for category in dataset.categories}
    return EvaluationResult(
        metrics=metrics,
        per_class={names[category_id]: scores for category_id, scores in per_id.items()},
        operating_points=operating_points(dataset.coco, predictions),
        predictions=predictions,
        class_names=opened.detector.class_names,
        category_ids=dataset.category_ids,
        images=len(dataset),
        boxes=dataset.num_boxes,
        seconds=time.monotonic() - started,
        data=dataset.digest,
        trained_on=trained_on,
    )


def predict_some(
    dataset_dir: str | Path, checkpoint: str | Path, *, split: str, most: int, batch_size: int | None = None
) -> tuple[list[dict[str, Any]], int]:
    """Predicts on images of a split, spread over all sizes, on the device and in the precision of the run.

    Args:
        dataset_dir: as for `evaluate`.
        checkpoint: likewise.
        split: likewise.
        most: how many images at most.
        batch_size: as for `evaluate`.

    Returns:
        COCO results as in `EvaluationResult.predictions`, and of how many images they are.

    Raises:
        TrainerError: a file is missing or damaged.
    """
    opened = _open(Path(dataset_dir), checkpoint, split)
    every = max(1, math.ceil(len(opened.dataset) / most))
    return opened.predict(batch_size, "auto", every=every), math.ceil(len(opened.dataset) / every)


@dataclass(frozen=True)
class _Opened:
    """A model, and a split for it to look at."""

    detector: Detector
    dataset: CocoDetection
    trained_on: dict[str, str]
    where: torch.device
    arithmetic: Arithmetic

    def predict(
        self, batch_size: int | None, workers: int | Literal["auto"], *, every: int = 1
    ) -> list[dict[str, Any]]:
        """COCO results for the split, or for each so-and-so-many-th image by size."""
        count = default_workers(self.where) if workers == "auto" else workers
        loader = eval_loader(self.dataset, batch_size or 8, count, world_size=every)
        category_ids = self.dataset.category_ids
        return predict(self.detector.model, loader, self.where, category_ids, arithmetic=self.arithmetic)[0]


def _open(
    dataset_dir: Path,
    checkpoint: str | Path,
    split: str,
    images_root: str | Path | None = None,
    device: str | None = None,
    precision: Precision | None = None,
) -> _Opened:
    limit_threads()
    content = read(checkpoint)
    run = content.get("config", {})
    where = _of_run(pick_device, device, run.get("device"))
    arithmetic = _of_run(lambda name: pick_arithmetic(name, where), precision, run.get("precision"))
    detector = from_content(content, checkpoint, where)
    dataset = CocoDetection(
        annotation_file(dataset_dir, split),
        EvalTransform(detector.image_size, detector.max_size),
        images_root=Path(images_root) if images_root is not None else None,
        classes=detector.categories,
    )
    return _Opened(detector, dataset, content.get("data", {}), where, arithmetic)


_Picked = TypeVar("_Picked")


def _of_run(pick: Callable[[Any], _Picked], asked: str | None, of_run: str | None) -> _Picked:
    """What is asked for, else what the run had, else what suits a machine that does not have that."""
    if asked is not None:
        return pick(asked)
    try:
        return pick(of_run or "auto")
    except TrainerError:
        return pick("auto")
