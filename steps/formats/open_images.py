"""Open Images V6: `annotations/<subset>-annotations-bbox.csv`, `images/<subset>/`, `masks/<subset>/`.

Boxes are in fractions of the image; a mask is an image of an object. Classes have an id, and a name in
`class-descriptions.csv`. Source: storage.googleapis.com/openimages/web/download_v7.html.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from steps.common.errors import StepError
from steps.dataset.lookup import Stems, files_below, is_image, join
from steps.dataset.model import Dataset
from steps.formats import text
from steps.formats.mask_image import read_mask
from steps.formats.objects import add_object
from steps.formats.shapes import Box, around_pixels

TAG = "cvat_openimages"
TITLE = "Open Images V6 1.0"

_BOXES, _MASKS = "-annotations-bbox.csv", "-annotations-object-segmentation.csv"
_IMAGES, _CLASSES = "-images-with-rotation.csv", "class-descriptions"
_EDGES = ("XMin", "XMax", "YMin", "YMax")
_FLAGS = {"IsOccluded": "occluded", "IsTruncated": "truncated", "IsDepiction": "depiction", "IsInside": "inside"}


def recognise(root: Path) -> list[Path]:
    """Give the tables of boxes and of masks."""
    return files_below(root, lambda name: name.endswith((_BOXES, _MASKS)))


def read(root: Path, dataset: Dataset) -> None:
    """Read the listed images, and the boxes and masks of each subset. Groups of objects become crowd regions.

    Raises:
        StepError: a table lacks a column, a number cannot be read, or a mask is missing.
    """
    names: dict[str, str] = {}
    for path in files_below(root, lambda name: _CLASSES in name and name.endswith(".csv")):
        names |= {row[0]: row[1] for _, row in _rows(path) if len(row) > 1 and row[0] != "LabelName"}
    for name in names.values():
        dataset.category(name)
    images: dict[tuple[str, str], int] = {}
    listed = files_below(root, lambda name: name.endswith(_IMAGES))
    for path in (*listed, *recognise(root)):
        dataset.begin(path)
        for where, row in _table(path, "ImageID"):
            subset = _subset(path, root)
            key = subset, row["ImageID"]
            if key not in images:
                name = join(path.parent.parent.relative_to(root) / "images" / subset, row["ImageID"])
                images[key] = dataset.image(name, subset=subset)
            if path.name.endswith(_BOXES):
                _read_box(row, where, images[key], names, dataset)
    masks = [path for path in files_below(root, is_image) if "masks" in path.relative_to(root).parts[:-1]]
    dataset.masks.update(path.relative_to(root).as_posix() for path in masks)
    stems = Stems(root, masks)
    for path in files_below(root, lambda name: name.endswith(_MASKS)):
        for where, row in _table(path, "ImageID", "LabelName", "MaskPath"):
            subset = _subset(path, root)
            # A mask with a box has a row among the boxes.
            if not row.get("BoxXMin"):
                box = _around(row["MaskPath"], where, path.parent.parent.relative_to(root) / "masks" / subset, stems)
                _add(row, images[subset, row["ImageID"]], box, {}, names, dataset)


def _subset(path: Path, root: Path) -> str:
    for suffix in (_BOXES, _MASKS, _IMAGES):
        if path.name.endswith(suffix):
            return path.name.removesuffix(suffix).removeprefix("oidv6-")
    return ""


def _rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    reader = csv.reader(io.StringIO(text.read_text(path), newline=""))
    try:
        for row in reader:
            if row:
                yield reader.line_num, row
    except csv.Error as error:
        raise StepError(f"{path}, line {reader.line_num}: not readable CSV ({error}): dump the task again") from None


def _table(path: Path, *needed: str) -> Iterator[tuple[str, Mapping[str, str]]]:
    """Yield the rows of a table by the names of its columns, and where each is."""
    header: list[str] = []
    for number, row in _rows(path):
        if not header:
            header = row
            if missing := set(needed) - set(header):
                raise StepError(f"{path} has no column '{min(missing)}': dump the task again")
            continue
        where = f"{path}, line {number}"
        if len(row) != len(header):
            raise StepError(f"{where} has {len(row)} fields, expected {len(header)}: dump the task again")
        yield where, dict(zip(header, row, strict=True))


def _read_box(row: Mapping[str, str], where: str, image: int, names: Mapping[str, str], dataset: Dataset) -> None:
    for column in (*_EDGES, "LabelName"):
        if column not in row:
            raise StepError(f"{where}: there is no column '{column}': dump the task again")
    left, right, top, bottom = (text.number(row[edge], where, f"'{edge}'") for edge in _EDGES)
    attributes = {name: row.get(column) == "1" for column, name in _FLAGS.items()}
    crowd = row.get("IsGroupOf") == "1"
    _add(row, image, (left, top, right - left, bottom - top), attributes, names, dataset, relative=True, crowd=crowd)


def _add(
    row: Mapping[str, str],
    image: int,
    box: Box | None,
    attributes: Mapping[str, Any],
    names: Mapping[str, str],
    dataset: Dataset,
    *,
    relative: bool = False,
    crowd: bool = False,
) -> None:
    label = names.get(row["LabelName"], row["LabelName"])
    category = dataset.category(label) if label else None
    add_object(dataset, image, category, box, attributes, crowd=crowd, relative=relative)


def _around(name: str, where: str, folder: Path, masks: Stems) -> Box | None:
    path = masks.find(join(folder, name))
    if path is None:
        raise StepError(f"{where}: the mask {text.shown(name)} is missing: dump the task again")
    # Pixels of 0 and 1, which a mode of one bit would round to 0.
    return around_pixels(read_mask(path, "L") > 0)
