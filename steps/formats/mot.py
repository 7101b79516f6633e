"""MOT 1.1, the MOTChallenge layout: `gt/gt.txt`, `gt/labels.txt`, `img1/`, one sequence or several folders of them.

A line is frame, track, left, top, width, height, whether it counts, class, visibility; frames and classes are
numbered from 1. Source: motchallenge.net/instructions.
"""

from __future__ import annotations

import re
from pathlib import Path

from steps.common.errors import StepError
from steps.dataset.lookup import files_below, is_image, join, split_suffix
from steps.dataset.model import Dataset
from steps.formats import text
from steps.formats.frames import has_gaps, in_order, one_sequence
from steps.formats.objects import add_object

TAG = "cvat_mot"
TITLE = "MOT 1.1"

_WHOLE = re.compile(r"[+-]?\d+(_\d+)*", re.ASCII)
_SUBSETS = {"train", "val", "valid", "validation", "test"}


def recognise(root: Path) -> list[Path]:
    """Give each sequence's `gt/gt.txt`."""
    return [path for path in files_below(root, lambda name: name == "gt.txt") if path.parent.name == "gt"]


def read(root: Path, dataset: Dataset) -> None:
    """Read every sequence.

    A rotated rectangle has lost its rotation. Objects that do not count become crowd regions, which are neither
    trained on nor wrong to find. A class number without a name drops its box.

    Raises:
        StepError: a line has fewer than six fields, or one that is not a number; the image of a frame is unknown.
    """
    sequences = recognise(root)
    if not sequences:
        raise StepError(f"{root} holds no gt/gt.txt: dump the task as '{TITLE}'")
    for path in sequences:
        _read_sequence(path, dataset)


def _read_sequence(path: Path, dataset: Dataset) -> None:
    sequence, root = path.parent.parent, dataset.root
    dataset.begin(path)
    subset = next((part for part in sequence.relative_to(root).parts if part.lower() in _SUBSETS), "")
    categories = _labels(path.parent / "labels.txt", dataset)
    frames, placed = _frames(sequence, dataset)
    images = {
        frame: dataset.image(image.relative_to(root).as_posix(), subset=subset) for frame, image in frames.items()
    }
    first_seen: dict[int, int] = {}
    for number, line in text.lines(path):
        where = f"{path}, line {number}"
        fields = [field.strip() for field in line.split(",")]
        if len(fields) < 6:
            raise StepError(
                f"{where} has {len(fields)} fields, expected frame,track,left,top,width,height,...: dump the task again"
            )
        frame, track = (text.whole(field, where, name) for field, name in zip(fields, ("frame", "track"), strict=False))
        left, top, width, height = text.numbers(fields[2:6], where, "a coordinate")
        counts, label, visibility = _optional(fields[6:9], where)
        if frame not in images and placed:
            raise StepError(
                f"{where} is of frame {frame}, but there are {len(frames)} images: some are missing, which leaves the "
                "frame numbers of the others unknown: dump the task again, as 'CVAT for images 1.1'"
            )
        if frame not in images:
            name = join(sequence.relative_to(root), f"img1/{frame:06}")
            images[frame] = dataset.image(name, subset=subset)
        attributes = {"visibility": visibility, "occluded": visibility <= 0, "ignored": counts == 0}
        if track > 0:
            attributes["track_id"] = track
            # CVAT dumps images as MOT too: an object of theirs is in one frame only.
            dataset.video |= first_seen.setdefault(track, frame) != frame
        if counts == 0:
            dataset.findings.note(
                "repaired", "object marked as ignored, kept as a crowd region", dataset.names[images[frame]]
            )
        category = categories.get(label) if categories else dataset.category(str(label))
        add_object(dataset, images[frame], category, (left, top, width, height), attributes, crowd=counts == 0)


def _optional(fields: list[str], where: str) -> tuple[float, int, float]:
    """Whether it counts, class and visibility: the fields that not every writer of MOT has."""
    counts = text.number(fields[0], where, "the seventh field") if fields and fields[0] else 1.0
    label = text.whole(fields[1], where, "the class") if len(fields) > 1 and fields[1] else -1
    visibility = text.number(fields[2], where, "visibility") if len(fields) > 2 and fields[2] else 1.0
    return counts, label, visibility


def _labels(path: Path, dataset: Dataset) -> dict[int, int]:
    """Categories by their number; none where the dump has no names for them, which is then said."""
    if not path.is_file() or path.is_symlink():
        dataset.findings.note("lost", "class names: classes are called by their numbers", str(path))
        return {}
    content = text.read_text(path).rstrip()
    return {
        number: dataset.category(name.strip())
        for number, name in enumerate(re.split(r"\r\n|\r|\n", content), 1)
        if name.strip()
    }


def _frames(sequence: Path, dataset: Dataset) -> tuple[dict[int, Path], bool]:
    """Images by their frame numbers, and whether those are places.

    datumaro, which writes CVAT's MOT, numbers an image by its path without suffix where that is a whole number, else
    by its place in the export, from 1 (datumaro/plugins/mot_format.py).
    """
    folder = sequence / "img1"
    folder = folder if folder.is_dir() and not folder.is_symlink() else sequence
    images = {path.relative_to(folder).as_posix(): path for path in files_below(folder, is_image)}
    numbers = {name: int(stem) for name in images if _WHOLE.fullmatch(stem := split_suffix(name)[0])}
    placed = len(numbers) < len(images)
    if placed:
        source = sequence / "gt" / "gt.txt"
        if dataset.frame_order == "auto" and not one_sequence(list(images)):
            # Several tasks of a project follow each other in the order of the project.
            raise StepError(
                f"{source} numbers images by their place in the export, which their names do not tell: give "
                "--frame-order lexicographical (CVAT's default) or natural if this is one task, or dump it as "
                "'CVAT for images 1.1'"
            )
        if dataset.frame_order == "auto" and has_gaps(list(images)):
            raise StepError(
                f"{source} numbers images by their place in the export, and frames are missing between those in "
                f"{folder}: dump the task as 'CVAT for images 1.1', or give --frame-order lexicographical if they were "
                "deleted in CVAT"
            )
        ordered = in_order(list(images), dataset.frame_order, source)
        numbers = {name: numbers.get(name, place) for place, name in enumerate(ordered, 1)}
        dataset.findings.note("noted", "image numbered by its place among the names", str(sequence), len(images))
    frames: dict[int, Path] = {}
    for name, number in numbers.items():
        if (other := frames.setdefault(number, images[name])) != images[name]:
            raise StepError(f"{sequence}: {other} and {images[name]} are both frame {number}: dump the task again")
    return frames, placed
