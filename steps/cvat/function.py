"""A trained detector as an auto-annotation function of CVAT's.

`cvat-cli` takes this module as it is::

    cvat-cli task auto-annotate 43 --function-module steps.cvat.function -p checkpoint=str:runs/latest/output

and so does `cvat-cli function run-agent`, for CVAT Online and Enterprise.
"""

from collections.abc import Collection, Sequence
from typing import Any

from cvat_sdk import auto_annotation as aa
from PIL.Image import Image

from steps.common.errors import StepError
from steps.cvat.boxes import plain_boxes
from trainer import Detector, TrainerError, load


class DetectorFunction:
    """Implements `cvat_sdk.auto_annotation.DetectionFunction`: rectangles, with CVAT's labels by the classes' names."""

    def __init__(
        self, detector: Detector, threshold: float | None = None, labels: Collection[str] | None = None
    ) -> None:
        """Wrap a detector.

        Args:
            detector: what `trainer.load` gave.
            threshold: score from which a prediction counts; None for the checkpoint's operating points, by class. What
                CVAT asks for goes before.
            labels: classes to give; None for all.
        """
        self._detector = detector
        self._threshold = threshold
        self._labels = {
            label: name for label, name in enumerate(detector.class_names) if labels is None or name in labels
        }
        self._ahead: dict[int, tuple[Image, dict[str, Any]]] = {}
        self.boxes = 0
        """How many were given so far."""
        specs = [aa.label_spec(name, label, type="rectangle") for label, name in self._labels.items()]
        self.spec = aa.DetectionFunctionSpec(labels=specs)

    def look_ahead(self, images: Sequence[Image]) -> None:
        """Predict on images as one batch; `detect` is asked for each of them, the same objects, afterwards."""
        found = self._detector.predict(images, self._threshold)
        # The image is kept, since a number in its place could become another's.
        self._ahead = {id(image): (image, one) for image, one in zip(images, found, strict=True)}

    def detect(self, context: Any, image: Image) -> list[Any]:
        """Give the rectangles on an image.

        Args:
            context: of CVAT's; `conf_threshold` is the score from which a prediction counts, or None.
            image: in the orientation of its file, which CVAT shows upright, as the boxes are.
        """
        return [aa.rectangle(label, points) for label, points in self._boxes(image, context.conf_threshold)]

    def named_boxes(self, image: Image) -> list[tuple[str, list[float]]]:
        """Give the class and [x0, y0, x1, y1] in px of the objects on an image."""
        return [(self._labels[label], points) for label, points in self._boxes(image, None)]

    def _boxes(self, image: Image, asked: float | None) -> list[tuple[int, list[float]]]:
        _, found = self._ahead.pop(id(image), (image, None)) if asked is None else (image, None)
        if found is None:
            (found,) = self._detector.predict([image], self._threshold if asked is None else asked)
        boxes = [(label, points) for label, _, points in plain_boxes(found) if label in self._labels]
        self.boxes += len(boxes)
        return boxes


def create(checkpoint: str, threshold: float | None = None, device: str = "auto") -> DetectorFunction:
    """Make the function, as `cvat-cli` does with what `-p` gives.

    Raises:
        StepError: there is no such checkpoint.
    """
    try:
        return DetectorFunction(load(checkpoint, device), threshold)
    except TrainerError as error:
        raise StepError(str(error)) from None
