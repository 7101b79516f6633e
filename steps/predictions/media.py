"""Images to predict on: in a folder, in a zip, or as the frames of a video."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from steps.common.errors import StepError
from steps.dataset.layout import FOREIGN_FOLDERS
from steps.dataset.lookup import is_image
from steps.dump.journal import version_of
from steps.dump.unpack import unpack
from steps.predictions.predicted import UNWRITABLE
from steps.predictions.video import EVERY_FRAME, SUFFIXES, Frames, read_frames
from steps.storage.address import has_scheme
from trainer.data.image_file import ImageError
from trainer.data.images import read_image

BATCH = 8
"""Images that are read, and predicted on, at once."""


class Picture(NamedTuple):
    """An image, upright and in RGB."""

    name: str
    """Path in the folder or archive with `/`; of a video's frame what CVAT calls it."""
    image: Image.Image
    frame: int | None = None
    """Number in the video."""


@dataclass(frozen=True)
class Media:
    """What there is to predict on."""

    pictures: Iterable[Picture]
    """In the order of their names; each is read when it is asked for."""
    count: int
    """Of the pictures, those that turn out to be unreadable among them; of a video what its header says."""
    skipped: dict[str, str] = field(default_factory=dict)
    """Why there is nothing for a file, by its name. Grows while `pictures` are read."""
    files: Mapping[str, Path] = field(default_factory=dict)
    """Where each picture lies, by its name; none for a video."""


def open_media(images: str, output: Path, scratch: Path, frames: Frames = EVERY_FRAME) -> Media:
    """Find the images in a folder, in a zip, in a video, or a single one.

    Args:
        images: path of either.
        output: folder whose images are not meant.
        scratch: folder for what a zip holds; what is in it goes.
        frames: which of a video's frames.

    Raises:
        StepError: there are none, the archive is unsafe or damaged, or the video cannot be read.
    """
    if has_scheme(images):
        raise StepError(f"--images {images} is not on this machine: bring it here, as 'fetch' does a dump")
    path = Path(images).expanduser()
    if path.suffix.lower() in SUFFIXES and path.is_file():
        skipped: dict[str, str] = {}
        count, pictures = read_frames(path, frames, skipped)
        return Media((Picture(name, image, frame) for name, image, frame in pictures), count, skipped)
    if frames != EVERY_FRAME:
        raise StepError(f"--images {path} is no video: leave out --start-frame, --stop-frame and --frame-step")
    if path.is_dir():
        return _folder(path, output)
    if path.suffix.lower() == ".zip" and path.is_file():
        shutil.rmtree(scratch, ignore_errors=True)
        unpack(path, str(path), version_of(path), scratch)
        return _folder(scratch, output, str(path))
    if is_image(path.name) and path.is_file():
        return _read_when_asked({path.name: path}, {})
    raise StepError(f"--images {path} is neither a folder, nor a zip, an image or a video ({', '.join(SUFFIXES)})")


def _folder(folder: Path, output: Path, shown: str = "") -> Media:
    files: dict[str, Path] = {}
    skipped: dict[str, str] = {}
    for path in sorted(_images_below(folder, output), key=str):
        name = path.relative_to(folder).as_posix()
        if flaw := _flaw_of(name):
            skipped[name] = flaw
        else:
            files[name] = path
    if not files and not skipped:
        raise StepError(f"--images {shown or folder} holds no images")
    return _read_when_asked(files, skipped)


def _images_below(folder: Path, output: Path) -> Iterator[Path]:
    """Give the images below a folder, but for hidden ones; links to files count, as somebody put them there."""
    for place, folders, names in os.walk(folder):
        folders[:] = [
            name
            for name in folders
            if not name.startswith(".")
            and name not in FOREIGN_FOLDERS
            and not (output.is_dir() and os.path.samefile(os.path.join(place, name), output))
        ]
        yield from (
            path
            for path in (Path(place, name) for name in names if is_image(name) and not name.startswith("."))
            if path.is_file()
        )


def _flaw_of(name: str) -> str:
    return "its name has characters that no XML can hold: rename it" if UNWRITABLE.search(name) else ""


def _read_when_asked(files: Mapping[str, Path], skipped: dict[str, str]) -> Media:
    def read(path: Path) -> Image.Image | ImageError:
        try:
            return read_image(path)
        except ImageError as error:
            return error

    def pictures() -> Iterator[Picture]:
        names = iter(files)
        # Decoding lets go of the interpreter's lock.
        with ThreadPoolExecutor(BATCH) as readers:
            while batch := list(islice(names, BATCH)):
                for name, image in zip(batch, readers.map(read, (files[name] for name in batch)), strict=True):
                    if isinstance(image, ImageError):
                        skipped[name] = image.reason
                    else:
                        yield Picture(name, image)

    return Media(pictures(), len(files) + len(skipped), skipped, files)
