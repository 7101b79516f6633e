"""A detector over many images, in batches."""

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any, NamedTuple

from steps.cvat.boxes import plain_boxes
from steps.predictions.media import BATCH, Picture
from steps.predictions.predicted import Predicted
from trainer import Detector


class Seen(NamedTuple):
    """An image that the detector has seen."""

    picture: Picture
    predicted: Predicted
    """What reached its threshold."""
    raw: dict[str, Any]
    """Every detection, however little it scores, best first: `scores` `[n]`, `labels` `[n]` and `boxes` `[n, 4]`
    (x0, y0, x1, y1 in px), as `Detector.predict` gives them."""


def detect(
    detector: Detector, pictures: Iterable[Picture], threshold: float | None, *, features: bool = False
) -> Iterator[Seen]:
    """Predict on each image, in their order.

    Args:
        detector: what `trainer.load` gave.
        pictures: taken a batch at a time.
        threshold: score from which a prediction counts; None for the checkpoint's operating points, by class.
        features: have them in `raw` as well.
    """
    by_label = detector.thresholds if threshold is None else [threshold] * len(detector.categories)
    pictures = iter(pictures)
    while batch := list(islice(pictures, BATCH)):
        found = detector.predict([picture.image for picture in batch], threshold=0, features=features)
        for picture, raw in zip(batch, found, strict=True):
            boxes = [box for box in plain_boxes(raw) if box[1] >= by_label[box[0]]]
            yield Seen(picture, Predicted(picture.name, *picture.image.size, boxes, picture.frame), raw)
