"""Predictions as CVAT takes them: plain numbers, within the image."""

import math
from typing import Any


def plain_boxes(found: dict[str, Any]) -> list[tuple[int, float, list[float]]]:
    """Give one image's detections without those that are no boxes.

    CVAT stores boxes outside of the image as they come, and answers NaN with 400.

    Args:
        found: `scores` `[n]`, `labels` `[n]` and `boxes` `[n, 4]` (x0, y0, x1, y1 in px, cut at the image's edge), as
            `trainer.Detector.predict` gives them.

    Returns:
        Label, score and [x0, y0, x1, y1] of each, to the hundredth of a pixel, which is what CVAT writes.
    """
    rows = zip(found["labels"].tolist(), found["scores"].tolist(), found["boxes"].tolist(), strict=True)
    boxes = []
    for label, score, sides in rows:
        if not all(map(math.isfinite, (score, *sides))):
            continue
        x0, y0, x1, y1 = points = [round(float(side), 2) for side in sides]
        if x0 < x1 and y0 < y1:
            boxes.append((int(label), float(score), points))
    return boxes
