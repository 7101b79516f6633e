"""Datumaro JSON: `annotations/<subset>.json`, `images/<subset>/`.

Source: the documentation of datumaro's own format, open-edge-platform.github.io/datumaro.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from steps.common.errors import StepError
from steps.dataset.lookup import files_below, join
from steps.dataset.model import Dataset
from steps.formats import text
from steps.formats.objects import add_object, rotated, skip
from steps.formats.shapes import Box, around_ellipse, around_polygons, around_rle

TAG = "datumaro_project"
TITLE = "Datumaro 1.0"

_HEAD = 1 << 16
_SIGNS = re.compile(rb'"(?:dm_format_version|media_type)"\s*:|"categories"\s*:\s*\{|"items"\s*:\s*\[')
_NO_BOXES = {"points", "polyline", "label", "caption", "cuboid", "cuboid_2d", "cuboid_3d", "skeleton"}


def recognise(root: Path) -> list[Path]:
    """Give the JSON files that begin as datumaro's do: categories are an object there, a list in COCO."""
    return [path for path in files_below(root, lambda name: name.lower().endswith(".json")) if _is_datumaro(path)]


def _is_datumaro(path: Path) -> bool:
    with path.open("rb") as file:
        return bool(_SIGNS.search(file.read(_HEAD)))


def read(root: Path, dataset: Dataset) -> None:
    """Read every subset.

    Polygons, masks, turned boxes and ellipses become the boxes around them; other annotations are skipped. A label's
    number that is not listed drops its box.

    Raises:
        StepError: a file is not such JSON, or an entry in it is malformed.
    """
    paths = recognise(root)
    if not paths:
        raise StepError(f"{root} holds no annotations/<subset>.json of datumaro's: dump the task as '{TITLE}'")
    for path in paths:
        dataset.begin(path)
        document = text.read_document(path)
        _demand(isinstance(document, dict), str(path), "expected a JSON object at the top level")
        categories = _categories(path, document, dataset)
        items = document.get("items")
        _demand(isinstance(items, list), str(path), "'items' is not a list")
        for index, item in enumerate(items):
            _read_item(path, f"items[{index}]", item, categories, dataset)


def _demand(right: bool, where: str, wrong: str) -> None:
    if not right:
        raise StepError(f"{where} is not in Datumaro's format: {wrong}: dump the task again")


def _categories(path: Path, document: Mapping[str, Any], dataset: Dataset) -> list[int]:
    place: Any = document
    for name in ("categories", "label", "labels"):
        place = place.get(name, {}) if isinstance(place, dict) else place
    labels = place or []
    right = isinstance(labels, list) and all(
        isinstance(label, dict) and isinstance(label.get("name"), str) for label in labels
    )
    _demand(right, str(path), "'categories.label.labels' is not a list of names")
    return [dataset.category(label["name"]) for label in labels]


def _read_item(path: Path, place: str, item: Any, categories: Sequence[int], dataset: Dataset) -> None:
    _demand(isinstance(item, dict) and isinstance(item.get("id"), str | int), f"{path}: {place}", "it has no 'id'")
    annotations = item.get("annotations", [])
    _demand(isinstance(annotations, list), f"{path}: {place}", "'annotations' is not a list")
    subset = path.stem
    media = item.get("image")
    media = media if isinstance(media, dict) else {}
    # An empty path stands for an image that was not saved: its name is the item's.
    name = media.get("path") or str(item["id"])
    _demand(isinstance(name, str), f"{path}: {place}", "'image.path' is not text")
    size = media.get("size")
    height, width = size if isinstance(size, list) and len(size) == 2 else (None, None)
    base = path.parent.parent if path.parent.name == "annotations" else path.parent
    folder = base.relative_to(dataset.root) / "images" / subset
    image = dataset.image(join(folder, name), subset=subset, width=width, height=height)
    for index, annotation in enumerate(annotations):
        where = f"{path}: {place}.annotations[{index}]"
        _demand(isinstance(annotation, dict), where, "it is not an object")
        _read_annotation(annotation, where, image, categories, dataset)


def _read_annotation(
    annotation: Mapping[str, Any], where: str, image: int, categories: Sequence[int], dataset: Dataset
) -> None:
    kind = annotation.get("type")
    if not isinstance(kind, str) or kind not in _SHAPES:
        skip(dataset, image, kind if isinstance(kind, str) and kind in _NO_BOXES else "annotation of an unknown type")
        return
    attributes = annotation.get("attributes")
    attributes = attributes if isinstance(attributes, dict) else {}
    label = annotation.get("label_id")
    listed = type(label) is int and 0 <= label < len(categories)
    add_object(
        dataset,
        image,
        categories[label] if listed else None,  # type: ignore[index]
        _SHAPES[kind](annotation, attributes, where),
        attributes,
        crowd=attributes.get("is_crowd") is True,
    )


def _values(annotation: Mapping[str, Any], field: str, where: str, count: int | None = None) -> list[float]:
    values = annotation.get(field)
    right = isinstance(values, list) and len(values) == (len(values) if count is None else count)
    _demand(right, where, f"'{field}' is {text.shown(values)}")
    return text.numbers(values, where, f"'{field}'")  # type: ignore[arg-type]


def _bbox(annotation: Mapping[str, Any], attributes: Mapping[str, Any], where: str) -> Box:
    x, y, width, height = _values(annotation, "bbox", where, 4)
    return rotated((x, y, width, height), attributes)


def _polygon(annotation: Mapping[str, Any], attributes: Mapping[str, Any], where: str) -> Box | None:
    return around_polygons([_values(annotation, "points", where)])


def _mask(annotation: Mapping[str, Any], attributes: Mapping[str, Any], where: str) -> Box | None:
    rle = annotation.get("rle")
    _demand(isinstance(rle, dict), where, f"'rle' is {text.shown(rle)}")
    return around_rle(rle, painted=True)  # type: ignore[arg-type]


def _ellipse(annotation: Mapping[str, Any], attributes: Mapping[str, Any], where: str) -> Box:
    """Its points are the left top and right bottom corners of the box that it fills before it is turned."""
    left, top, right, bottom = _values(annotation, "points", where, 4)
    degrees = attributes.get("rotation")
    centre = (left + right) / 2, (top + bottom) / 2
    radii = (right - left) / 2, (bottom - top) / 2
    return around_ellipse(*centre, *radii, degrees if isinstance(degrees, int | float) else 0)


_SHAPES = {"bbox": _bbox, "polygon": _polygon, "mask": _mask, "ellipse": _ellipse}
