"""Masks that a dump holds as images."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from steps.common.errors import StepError
from trainer.data.image_file import ImageError, open_image


def read_mask(path: Path, mode: str = "") -> NDArray[Any]:
    """Give the pixels of a mask, `[height, width]` or `[height, width, channels]`.

    Args:
        path: of the image file.
        mode: as Pillow names it, such as `RGB`; empty: as the file has it.

    Raises:
        StepError: it is not a readable image.
    """
    try:
        with open_image(path) as image:
            return np.asarray(image.convert(mode) if mode else image)
    except ImageError as error:
        raise StepError(f"{path} is not readable as a mask ({error.reason}): dump the task again") from None
