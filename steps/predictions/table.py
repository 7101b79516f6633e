"""A table of boxes, for spreadsheets and scripts."""

import csv
from pathlib import Path

from steps.predictions.predicted import Predictions

COLUMNS = ("image", "class", "score", "x1", "y1", "x2", "y2")


def write_table(predictions: Predictions, target: Path) -> None:
    """Write a row for each box, its corners in px of the upright image."""
    with target.open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(COLUMNS)
        for image in predictions.images:
            for label, score, points in image.boxes:
                table.writerow((image.name, predictions.class_names[label], round(score, 6), *points))
