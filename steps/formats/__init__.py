"""The formats that CVAT dumps in, a module each.

A reader has `TAG` (as CVAT's `dump-format` names it), `TITLE` (as CVAT's menu does), `recognise(root)`, the
files that show the format, none where it is another, and `read(root, dataset)`.
"""

import logging
from pathlib import Path
from typing import Protocol

from steps.errors import StepError
from steps.findings import printable, some
from steps.formats import coco
from steps.dataset import Dataset

log = logging.getLogger(__name__)


class Reader(Protocol):
    """What every module here offers."""

    TAG: str
    TITLE: str

    def recognise(self, root: Path) -> list[Path]:
        """Give the files that show the format; none where it is another. Reads no more than it must."""

    def read(self, root: Path, dataset: Dataset) -> None:
        """Put what the dump in `root` says into `dataset`.

        Raises:
            StepError: a file cannot be read as the format.
        """


READERS: tuple[Reader, ...] = (coco,)
"""Where a dump shows several formats, the first is taken: those that hold more come first."""
