"""What the readers do alike with an annotated object."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from steps.dataset.model import Dataset
from steps.formats.shapes import Box, around_rotated

NO_CATEGORY = "box of an unlisted category"


def add_object(
    dataset: Dataset,
    image: int,
    category: int | None,
    box: Box | None,
    attributes: Mapping[str, Any],
    *,
    crowd: bool = False,
    relative: bool = False,
) -> None:
    """Add the box around an object, or note why there is none."""
    where = dataset.names[image]
    if category is None:
        dataset.findings.note("dropped", NO_CATEGORY, where)
    elif attributes.get("outside") is True:
        dataset.findings.note("skipped", "object of a track while it is outside", where)
    elif box is None:
        dataset.findings.note("dropped", "shape of zero size", where)
    else:
        dataset.box(image, category, *box, crowd=crowd, relative=relative, attributes=attributes)


def skip(dataset: Dataset, image: int, kind: str) -> None:
    """Note an annotation that has no box."""
    dataset.findings.note("skipped", f"{kind}, which has no box", dataset.names[image])


def rotated(box: Box, attributes: Mapping[str, Any]) -> Box:
    """The box around one that CVAT turned: formats without a place for it carry `rotation` as an attribute."""
    degrees = attributes.get("rotation")
    return around_rotated(*box, degrees) if isinstance(degrees, int | float) and degrees else box
