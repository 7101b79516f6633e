"""What was predicted, as every format's writer takes it."""

import re
from dataclasses import dataclass, field

UNWRITABLE = re.compile("[^\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""Characters that no XML can hold (W3C, XML 1.0, 2.2), or only as a space."""

Box = tuple[int, float, list[float]]
"""Label, score, and [x0, y0, x1, y1] in px of the upright image."""


@dataclass(frozen=True)
class Predicted:
    """An image with what was found on it, best first."""

    name: str
    """Path in the folder or archive with `/`; of a video's frame what CVAT calls it."""
    width: int
    """In px, upright."""
    height: int
    boxes: list[Box]
    frame: int | None = None
    """Number in the video."""


@dataclass(frozen=True)
class Predictions:
    """All images, and the classes by label."""

    class_names: list[str]
    category_ids: list[int]
    """Ids of the classes in the data that the model was trained on."""
    images: list[Predicted] = field(default_factory=list)

    @property
    def boxes(self) -> int:
        """How many were found in all."""
        return sum(len(image.boxes) for image in self.images)
