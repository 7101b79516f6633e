"""MOT 1.1, the MOTChallenge layout: `gt/gt.txt`, `gt/labels.txt`, `img1/`, one sequence or several folders of them.

A line is frame, track, left, top, width, height, whether it counts, class, visibility; frames and classes are
numbered from 1. Source: motchallenge.net/instructions.
"""

from __future__ import annotations

import re
from pathlib import Path

from steps.common.errors import StepError
from steps.dataset.lookup import files_below, is_image, join
from steps.dataset.model import Dataset
from steps.formats import text
from steps.formats.objects import add_object

TAG = "cvat_mot"
TITLE = "MOT 1.1"

_LAST_NUMBER = re.compile(r"(\d+)\D*$")
_SUBSETS = {"train", "val", "valid", "validation", "test"}


def recognise(root: Path) -> list[Path]:
    """Give each sequence's `gt/gt.txt`."""
    return [path for path in files_below(root, lambda name: name == "gt.txt") if path.parent.name == "gt"]


def read(root: Path, dataset: Dataset) -> None:
    """Read every sequence.

    The images' own names are lost: they are those of `img1`, which are frame numbers. Objects that do not count
    become crowd regions, which are neither trained on nor wrong to find. A class number without a name drops its box.

    Raises:
        StepError: a line has fewer than six fields, or one that is not a number.
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
    images = {
        frame: dataset.image(image.relative_to(root).as_posix(), subset=subset)
        for frame, image in _frames(sequence, dataset).items()
    }
    dataset.findings.note("lost", "image name: MOT holds frame numbers only", count=len(images))
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


def _frames(sequence: Path, dataset: Dataset) -> dict[int, Path]:
    """Images by the number that ends their names, or by their order where these are not frame numbers."""
    folder = sequence / "img1"
    images = files_below(folder if folder.is_dir() and not folder.is_symlink() else sequence, is_image)
    frames: dict[int, Path] = {}
    for path in images:
        if found := _LAST_NUMBER.search(path.stem):
            frames.setdefault(int(found[1]), path)
    if len(frames) == len(images):
        return frames
    dataset.findings.note(
        "repaired", "images without frame numbers in their names, numbered in their order", str(sequence), len(images)
    )
    return dict(enumerate(images, 1))
