"""The formats that CVAT dumps in, a module each.

A reader has `TAG` (as CVAT's `dump-format` names it), `TITLE` (as CVAT's menu does), `recognise(root)`, the
files that show the format, none where it is another, and `read(root, dataset)`.
"""

import logging
import re
from pathlib import Path
from typing import Protocol

from steps.common.console import DISK_ERRORS
from steps.common.errors import StepError
from steps.common.messages import printable
from steps.dataset.model import Dataset
from steps.formats import (
    coco,
    cvat_backup,
    cvat_xml,
    datumaro_json,
    kitti,
    labelme,
    mot,
    open_images,
    segmentation_mask,
    tfrecord,
    voc,
    yolo,
)

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


READERS: tuple[Reader, ...] = (
    coco,
    datumaro_json,
    cvat_xml,
    voc,
    labelme,
    yolo,
    tfrecord,
    mot,
    open_images,
    kitti,
    segmentation_mask,
    cvat_backup,
)
"""Where a dump shows several formats, the first is taken: those that hold more come first."""
TAGS = tuple(reader.TAG for reader in READERS)
DEFAULT_TAG = coco.TAG
"""What CVAT is asked for where nobody chooses, so that it tells nothing of a dump that came in another way."""
FORMER_TAGS = {"cvat_images": cvat_xml.TAG}
"""What else is taken as a format's name: CVAT has no such tag, but earlier templates do."""


def check_tag(dump_format: str) -> str:
    """Give the tag that a name of a format means: the tag itself, or the format's title in CVAT's menu.

    Raises:
        StepError: it means none.
    """
    wanted = _plain(FORMER_TAGS.get(dump_format, dump_format))
    for reader in READERS:
        if wanted in (_plain(reader.TAG), _plain(reader.TAG.removeprefix("cvat_")), _plain(reader.TITLE)):
            return reader.TAG
    if wanted:
        raise StepError(
            f"--dump-format {printable(dump_format)} is not supported: give {', '.join(TAGS)}, or leave it empty"
        )
    return ""


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def read_dump(dataset: Dataset, dump_format: str = "") -> Reader:
    """Read a dump into a dataset; give the reader that did.

    Args:
        dataset: empty, in the dump's folder.
        dump_format: as for `detect`.

    Raises:
        StepError: as `detect`; a file cannot be read, and the line names it, whatever its reader raised.
    """
    try:
        reader = detect(dataset.root, dump_format)
        reader.read(dataset.root, dataset)
    except (StepError, KeyboardInterrupt):
        raise
    except Exception as error:
        # A full disk is nobody's fault here, and `steps.common.console` knows what to say of it.
        if isinstance(error, OSError) and error.errno in DISK_ERRORS:
            raise
        log.debug("", exc_info=True)
        file = dataset.root / dataset.source_names[-1] if dataset.source_names else dataset.root
        what = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        raise StepError(f"{file} cannot be read ({printable(what)}): dump the task again") from error
    return reader


def detect(root: Path, dump_format: str = "") -> Reader:
    """Find the format of a dump; what the files show counts more than what is said.

    Args:
        root: the dump's folder.
        dump_format: the tag of the format that it is said to have; empty for none.

    Raises:
        StepError: the files show none of the formats.
    """
    # What is said is looked for first: where the files show it, others need not be.
    said = [reader for reader in READERS if dump_format == reader.TAG]
    found: list[tuple[Reader, list[Path]]] = []
    for reader in (*said, *(reader for reader in READERS if reader not in said)):
        if files := reader.recognise(root):
            found.append((reader, files))
            if reader in said:
                break
    if not found:
        there = sorted(path.name for path in root.iterdir() if not path.name.startswith("."))
        listing = f"it holds {', '.join(map(printable, there[:6]))}" if there else "it is empty"
        raise StepError(
            f"{root} holds no dump in a supported format ({listing}): dump the task in CVAT as 'COCO 1.0' with its "
            f"images, or as one of {', '.join(reader.TITLE for reader in READERS[1:])}"
        )
    reader, files = found[0]
    shown = printable(files[0].relative_to(root).as_posix())
    if dump_format and reader not in said:
        log.log(
            logging.INFO if dump_format == DEFAULT_TAG else logging.WARNING,
            "%s--dump-format says %s, but the files are %s (%s): they are read as that",
            "" if dump_format == DEFAULT_TAG else "WARNING: ", dump_format, reader.TITLE, shown,
        )  # fmt: skip
    else:
        log.info("the dump is %s (%s)", reader.TITLE, shown)
    others = [f"{other.TITLE} ({printable(files[0].relative_to(root).as_posix())})" for other, files in found[1:]]
    if others:
        log.warning("WARNING: the files show %s too, which is not read: --dump-format chooses", ", ".join(others))
    return reader
