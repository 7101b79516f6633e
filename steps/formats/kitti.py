"""KITTI: `<subset>/label_2/*.txt`, `<subset>/image_2/`, `<subset>/instance/` and `label_colors.txt`.

A line is the class, truncation, occlusion, alpha, left, top, right, bottom in px, seven numbers in space, and a score
that not every writer adds. A pixel of an instance mask is 256 times the class plus the object's number; CVAT numbers
none (datumaro/plugins/kitti_format/converter.py), so that its masks do not tell objects of one class apart.
Source: the object development kit, cvlibs.net/datasets/kitti/eval_object.php.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from steps.common.errors import StepError
from steps.common.numbers import to_float
from steps.dataset.lookup import Stems, files_below, is_image, split_suffix
from steps.dataset.model import Dataset
from steps.formats import text
from steps.formats.mask_image import read_mask, regions
from steps.formats.objects import add_object, skip

TAG = "cvat_kitti"
TITLE = "KITTI 1.0"

_LABELS, _IMAGES, _INSTANCES = "label_2", "image_2", "instance"
_MASKS = {_INSTANCES, "semantic", "semantic_rgb"}
_NUMBERS = 14
"""Numbers of a line without a score."""
_BACKGROUND = "background"


def recognise(root: Path) -> list[Path]:
    """Give the label files, or the label map of a dump that has masks only."""
    files = files_below(root, lambda name: name.endswith(".txt"))
    labels = [path for path in files if _LABELS in path.relative_to(root).parts[:-1]]
    return labels or [
        path for path in files if path.name == "label_colors.txt" and any(path.parent.glob(f"*/{_IMAGES}"))
    ]


def read(root: Path, dataset: Dataset) -> None:
    """Read the images below `image_2`, with the boxes of their label files and of their masks.

    Raises:
        StepError: a line or a mask cannot be read.
    """
    images = files_below(root, is_image)
    labels = Stems(root, [path for path in recognise(root) if path.name != "label_colors.txt"])
    classes = [name for path in files_below(root, lambda name: name == "label_colors.txt") for name in _classes(path)]
    # The background is class 0 of a mask, and no class to train on.
    categories = [None if name == _BACKGROUND else dataset.category(name) for name in classes]
    masks = Stems(root, [path for path in images if _INSTANCES in path.relative_to(root).parts[:-1]])
    for path in images:
        parts = path.relative_to(root).parts
        if set(parts[:-1]) & _MASKS:
            dataset.masks.add(path.relative_to(root).as_posix())
        if _IMAGES not in parts[:-1]:
            continue
        place = parts.index(_IMAGES)
        image = dataset.image("/".join(parts), subset=parts[place - 1] if place else "")
        label_file, mask = (
            files.exact(split_suffix("/".join((*parts[:place], folder, *parts[place + 1 :])))[0])
            for files, folder in ((labels, _LABELS), (masks, _INSTANCES))
        )
        if label_file is not None:
            _read_labels(label_file, image, dataset)
        if mask is not None:
            _read_mask(mask, image, categories, dataset)


def _classes(path: Path) -> list[str]:
    """Names of the classes in the order of their numbers, from lines "red green blue name"."""
    names = []
    for number, line in text.lines(path):
        fields = line.split(maxsplit=3)
        if len(fields) != 4 or not all(field.isdecimal() for field in fields[:3]):
            raise StepError(f"{path}, line {number}: expected 'red green blue name': dump the task again")
        names.append(fields[3])
    return names


def _read_labels(path: Path, image: int, dataset: Dataset) -> None:
    for number, line in text.lines(path):
        where = f"{path}, line {number}"
        # A class's name may have spaces in it.
        fields = line.split()
        count = _NUMBERS + (len(fields) > _NUMBERS + 1 and _is_number(fields[-_NUMBERS - 1]))
        name, values = " ".join(fields[:-count]), fields[-count:]
        if not name:
            raise StepError(f"{where} has {len(fields)} fields, expected a class and {_NUMBERS}: dump the task again")
        truncated, occluded, _, left, top, right, bottom, *_ = text.numbers(values, where, "a field")
        if name == "DontCare":
            skip(dataset, image, "DontCare region")
            continue
        attributes = {"truncated": truncated > 0, "occluded": occluded > 0}
        box = left, top, right - left, bottom - top
        add_object(dataset, image, dataset.category(name), box, attributes, crowd=False)


def _is_number(field: str) -> bool:
    try:
        to_float(field)
    except ValueError:
        return False
    return True


def _read_mask(path: Path, image: int, categories: Sequence[int | None], dataset: Dataset) -> None:
    """Add the boxes around the objects of a mask that are numbered, and note those that are not."""
    pixels = read_mask(path)
    if pixels.ndim != 2 or pixels.dtype.kind not in "iu":
        raise StepError(f"{path} is not a mask of one channel of whole numbers: dump the task again")
    for value, _, box in regions(path, iter([pixels.astype(np.int64)])):
        kind, number = value >> 8, value & 255
        category = categories[kind] if 0 < kind < len(categories) else None
        if category is None:
            continue
        if not number:
            dataset.lost_objects += 1
            dataset.findings.note("lost", "objects of a class in one mask, not told apart", dataset.names[image])
            continue
        add_object(dataset, image, category, box, {})
