"""COCO's average precision and recall, computed by hotcoco (pycocotools' arithmetic in Rust, bit for bit)."""

from __future__ import annotations

import contextlib
import io
from typing import Any

import numpy as np
from hotcoco import COCO, COCOeval

from trainer.errors import TrainerError

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
# Places of the IoU thresholds 0.50, 0.55, ... 0.95.
_IOU_50, _IOU_75 = 0, 5


def coco_metrics(
    coco: dict[str, Any], predictions: list[dict[str, Any]]
) -> tuple[dict[str, float], dict[int, dict[str, float]]]:
    """Scores detections against a COCO file.

    Args:
        coco: the file's content; boxes without width or height are left out, as nothing can overlap them.
        predictions: a COCO results list: `image_id`, `category_id`, `bbox` [x, y, w, h] in px, `score`.

    Returns:
        The twelve numbers under the names in `METRICS`, each in [0, 1] or -1 where there is nothing of that
        size; and for each category id its `AP`, `AP50`, `AP75` and `AR100` in the same range, and the number
        of `boxes` and of `images` with such a box. Crowd regions count in neither number.

    Raises:
        TrainerError: a score is not a number.
    """
    truth = ground_truth(coco)
    evaluator = COCOeval(truth, scored(truth, predictions), "bbox")
    # The twelve numbers come with a table on the standard output.
    with contextlib.redirect_stdout(io.StringIO()):
        evaluator.run()
    metrics = {name: float(value) for name, value in zip(METRICS, evaluator.stats, strict=True)}
    return metrics, _per_class(truth, evaluator)


def ground_truth(coco: dict[str, Any]) -> COCO:
    """What the evaluation reads of a file: `area` and `iscrowd` always there, ids from 1 and unique.

    Whatever else an exporter writes stays away from the library, which is strict about types.
    """
    annotations: list[dict[str, Any]] = []
    for annotation in coco["annotations"]:
        x, y, width, height = (float(side) for side in annotation["bbox"])
        if width <= 0 or height <= 0:
            continue
        row = {
            "id": len(annotations) + 1,
            "image_id": int(annotation["image_id"]),
            "category_id": int(annotation["category_id"]),
            "bbox": [x, y, width, height],
            "area": float(annotation.get("area") or width * height),
            "iscrowd": int(annotation.get("iscrowd") or 0),
        }
        annotations.append(row)
    return COCO(
        {
            "images": [{"id": int(image["id"])} for image in coco["images"]],
            "annotations": annotations,
            "categories": [{"id": int(row["id"]), "name": str(row["name"])} for row in coco["categories"]],
        }
    )


def scored(truth: COCO, predictions: list[dict[str, Any]]) -> COCO:
    """Detections as the evaluation reads them.

    Raises:
        TrainerError: a score is not a number.
    """
    try:
        return truth.load_res(predictions)
    except ValueError as error:
        raise TrainerError(
            f"the predictions cannot be scored ({error}); the weights are broken: train again with a lower lr"
        ) from None


def _per_class(truth: COCO, evaluator: COCOeval) -> dict[int, dict[str, float]]:
    """Precision is `[thresholds, recalls, classes, areas, counts]`, recall the same without recalls."""
    arrays = evaluator.eval
    assert arrays is not None, "the evaluator has not run"
    precision, recall = arrays["precision"], arrays["recall"]
    images: dict[int, list[int]] = {}
    for annotation in truth.anns.values():
        if not annotation["iscrowd"]:
            images.setdefault(annotation["category_id"], []).append(annotation["image_id"])
    scores = {}
    for place, category_id in enumerate(evaluator.params.cat_ids):
        of_class = images.get(category_id, [])
        scores[category_id] = {
            "AP": _mean(precision[:, :, place, 0, -1]),
            "AP50": _mean(precision[_IOU_50, :, place, 0, -1]),
            "AP75": _mean(precision[_IOU_75, :, place, 0, -1]),
            "AR100": _mean(recall[:, place, 0, -1]),
            "boxes": len(of_class),
            "images": len(set(of_class)),
        }
    return scores


def _mean(values: np.ndarray) -> float:
    """The mean of what was measured, or COCO's -1 where nothing was."""
    measured = values[values > -1]
    return float(measured.mean()) if measured.size else -1.0
