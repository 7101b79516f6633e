"""The images to annotate next, as a list, and as files to make a task of."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path

from steps.cvat.links import frame_links
from steps.predictions.detect import Seen
from steps.predictions.media import Media
from steps.predictions.ranking import Assessed, Ranked, assess, rank
from trainer.data.coco_dataset import annotation_file, read_coco

COLUMNS = ("rank", "image", "uncertainty", "reason", "link")


class Shortlist:
    """Takes what was seen on each image, and then tells which to annotate next."""

    def __init__(self, count: int, thresholds: Sequence[float], class_names: Sequence[str], folder: Path) -> None:
        """Begin with nothing.

        Args:
            count: how many images to choose.
            thresholds: by label, the score from which a prediction counts.
            class_names: by label.
            folder: where the images lie, if they lie in one. Where it is a prepared dataset, images that have boxes
                in it are not chosen; where it was fetched from a CVAT server, the list leads to the frames there.
        """
        self._count, self._thresholds, self._class_names = count, thresholds, class_names
        self._folder = folder
        self._with_boxes = {path for split in ("train", "val") for path in _with_boxes(folder, split)}
        self._names: list[str] = []
        self._images: list[Assessed] = []
        self.annotated = 0
        """How many images were left out, as they have annotations."""

    def add(self, seen: Seen) -> None:
        """Take an image, with the detector's features."""
        if (self._folder / seen.predicted.name).absolute() in self._with_boxes:
            self.annotated += 1
            return
        self._names.append(seen.predicted.name)
        self._images.append(assess(seen.raw, self._thresholds, self._class_names))

    @cached_property
    def chosen(self) -> dict[str, Ranked]:
        """The images by name, in the order to annotate them in. No image may be added afterwards."""
        return {self._names[image.index]: image for image in rank(self._images, self._count)}

    def write_table(self, target: Path) -> None:
        """Write a row for each image: why it is there, and the way to its frame in CVAT if there is one."""
        links = frame_links(self._folder)
        with target.open("w", encoding="utf-8", newline="") as file:
            table = csv.writer(file, lineterminator="\n")
            table.writerow(COLUMNS)
            for place, (name, image) in enumerate(self.chosen.items(), start=1):
                link = links.get((self._folder / name).absolute(), "")
                table.writerow((place, name, round(image.uncertainty, 3), image.reason, link))

    def write_names(self, target: Path) -> None:
        """Write the names, one a line."""
        target.write_text("".join(f"{name}\n" for name in self.chosen), encoding="utf-8")


def files_of(names: Sequence[str], media: Media, folder: Path) -> dict[str, Path]:
    """Give the files of images, by name.

    Args:
        names: of the images.
        media: where they are, opened anew: a video's frames are read once more.
        folder: a video's frames go here.
    """
    if media.files:
        return {name: media.files[name] for name in names}
    frames = {name: folder / name for name in names}
    for picture in media.pictures:
        if picture.name in frames:
            picture.image.save(frames[picture.name])
    return frames


def _with_boxes(folder: Path, split: str) -> Iterator[Path]:
    """Images that a split of a dataset, if there is one, has boxes for."""
    path = annotation_file(folder, split)
    if path.is_file():
        coco = read_coco(path)
        annotated = {box["image_id"] for box in coco["annotations"]}
        yield from ((folder / image["file_name"]).absolute() for image in coco["images"] if image["id"] in annotated)
