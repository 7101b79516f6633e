"""COCO's twelve numbers for a checkpoint on a split of a dataset."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainer.data.coco_dataset import CocoDetection, annotation_file
from trainer.data.data_loader import eval_loader
from trainer.data.transforms import EvalTransform
from trainer.device import limit_threads
from trainer.errors import TrainerError
from trainer.evaluation.coco_metrics import coco_metrics
from trainer.evaluation.detector import load
from trainer.evaluation.predict import predict


@dataclass(frozen=True)
class EvaluationResult:
    """What a checkpoint scored on a split."""

    metrics: dict[str, float]
    """The twelve numbers of `coco_eval.METRICS`, in [0, 1], or -1 where nothing of that size exists."""
    per_class: dict[str, dict[str, float]]
    """For each class name of the split: AP, AP50, AP75, AR100, boxes, images."""
    predictions: list[dict[str, Any]]
    """COCO results: image_id, category_id (the file's own), bbox [x, y, w, h] in px, score."""
    class_names: list[str]
    """The model's, by label."""
    category_ids: list[int]
    """The split's id for each of them; -1 for a class that the split does not list."""
    images: int
    boxes: int
    seconds: float


def evaluate(
    dataset_dir: str | Path,
    checkpoint: str | Path,
    *,
    split: str = "val",
    images_root: str | Path | None = None,
    batch_size: int | None = None,
    device: str = "auto",
    workers: int = 0,
) -> EvaluationResult:
    """Predicts on a split and scores the predictions (COCO detection metrics; section 4 of the paper).

    Args:
        dataset_dir: holds `annotations/instances_<split>.json`.
        checkpoint: of `trainer.train`. Its classes are found in the split by id and name, else by name.
        split: which file to evaluate on.
        images_root: what a relative `file_name` starts from; None for `dataset_dir`.
        batch_size: images a batch, None for 8. Padding makes the last digits of the numbers depend on it.
        device: as in `TrainConfig`.
        workers: processes that load images.

    Raises:
        TrainerError: a file is missing or damaged, or the split has boxes of a class that the model does
            not know.
    """
    started = time.monotonic()
    limit_threads()
    detector = load(checkpoint, device)
    path = annotation_file(Path(dataset_dir), split)
    dataset = CocoDetection(
        path,
        EvalTransform(detector.image_size, detector.max_size),
        images_root=Path(images_root) if images_root is not None else None,
        classes=detector.categories,
    )
    if not len(dataset):
        raise TrainerError(f"{path} has no images to evaluate on")
    predictions, _ = predict(
        detector.model, eval_loader(dataset, batch_size or 8, workers), detector.device, dataset.category_ids
    )
    metrics, per_id = coco_metrics(dataset.coco, predictions)
    names = {category.id: category.name for category in dataset.categories}
    return EvaluationResult(
        metrics=metrics,
        per_class={names[category_id]: scores for category_id, scores in per_id.items()},
        predictions=predictions,
        class_names=detector.class_names,
        category_ids=dataset.category_ids,
        images=len(dataset),
        boxes=dataset.num_boxes,
        seconds=time.monotonic() - started,
    )
