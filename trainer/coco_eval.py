"""COCO's average precision and recall, computed by pycocotools."""

from __future__ import annotations

import contextlib
import io
from typing import Any

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

METRICS = (
    "AP",
    "AP50",
    "AP75",
    "AP_small",
    "AP_medium",
    "AP_large",
    "AR1",
    "AR10",
    "AR100",
    "AR_small",
    "AR_medium",
    "AR_large",
)


def coco_metrics(
    coco: dict[str, Any], predictions: list[dict[str, Any]]
) -> tuple[dict[str, float], dict[int, dict[str, float]]]:
    """Scores detections against a COCO file.

    Args:
        coco: the file's content; boxes without width or height are left out, as nothing can overlap them.
        predictions: a COCO results list: `image_id`, `category_id`, `bbox` [x, y, w, h] in px, `score`.

    Returns:
        The twelve numbers under the names in `METRICS`, each in [0, 1] or -1 where there is nothing of that
        size; and for each category id its `AP`, `AP50` and `AR100` in the same range, and the number of
        `boxes` and of `images` with such a box.
    """
    truth = _ground_truth(coco)
    with contextlib.redirect_stdout(io.StringIO()):
        evaluator = COCOeval(truth, _results(truth, predictions), "bbox")
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    metrics = {name: float(value) for name, value in zip(METRICS, evaluator.stats, strict=True)}
    return metrics, _per_class(truth, evaluator)


def _ground_truth(coco: dict[str, Any]) -> COCO:
    """The file as pycocotools wants it: `area` and `iscrowd` always there, ids from 1 and unique."""
    annotations: list[dict[str, Any]] = []
    for annotation in coco["annotations"]:
        _, _, width, height = annotation["bbox"]
        if width <= 0 or height <= 0:
            continue
        # pycocotools takes an annotation with id 0 for unmatched, hence ids of our own.
        row = {
            "id": len(annotations) + 1,
            "image_id": annotation["image_id"],
            "category_id": annotation["category_id"],
            "bbox": list(annotation["bbox"]),
            "area": annotation.get("area") or width * height,
            "iscrowd": annotation.get("iscrowd", 0),
        }
        annotations.append(row)
    return _index({**coco, "annotations": annotations})


def _results(truth: COCO, predictions: list[dict[str, Any]]) -> COCO:
    """Detections as pycocotools wants them; its own loader fails on an empty list."""
    annotations = [
        {**row, "id": index, "area": row["bbox"][2] * row["bbox"][3], "iscrowd": 0}
        for index, row in enumerate(predictions, start=1)
    ]
    return _index({**truth.dataset, "annotations": annotations})


def _index(content: dict[str, Any]) -> COCO:
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = content
        coco.createIndex()
    return coco


def _per_class(truth: COCO, evaluator: COCOeval) -> dict[int, dict[str, float]]:
    """Precision is `[thresholds, recalls, classes, areas, counts]`, recall the same without recalls."""
    precision, recall = evaluator.eval["precision"], evaluator.eval["recall"]
    scores = {}
    for place, category_id in enumerate(evaluator.params.catIds):
        ids = truth.getAnnIds(catIds=[category_id], iscrowd=False)
        scores[int(category_id)] = {
            "AP": _mean(precision[:, :, place, 0, -1]),
            "AP50": _mean(precision[0, :, place, 0, -1]),
            "AR100": _mean(recall[:, place, 0, -1]),
            "boxes": len(ids),
            "images": len({truth.anns[annotation_id]["image_id"] for annotation_id in ids}),
        }
    return scores


def _mean(values: np.ndarray) -> float:
    """The mean of what was measured, or COCO's -1 where nothing was."""
    measured = values[values > -1]
    return float(measured.mean()) if measured.size else -1.0
