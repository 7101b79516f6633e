"""LabelMe 3.0: an XML file beside each image in `<subset>/<folder>/`, and `<subset>/Masks/<folder>/`.

That is how CVAT writes it (datumaro/plugins/labelme_format.py). The tool itself, labelme.csail.mit.edu, has
`Annotations/<folder>/`, `Images/<folder>/` and `Masks/<folder>/`.
"""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from steps.common.errors import StepError
from steps.dataset.containment import path_parts
from steps.dataset.lookup import Stems, files_below, is_image, join
from steps.dataset.model import Dataset
from steps.formats import text, xml
from steps.formats.mask_image import read_mask
from steps.formats.objects import add_object, rotated, skip
from steps.formats.shapes import Box, around_pixels, around_points
from steps.formats.xml import Node

TAG = "cvat_label_me"
TITLE = "LabelMe 3.0"

_LOOKED_AT = 20
"""Files that `recognise` opens at most: one with an object, or with its image's size, tells."""
_ATTRIBUTE = re.compile(r"(?P<name>(?:\\.|[^,=\\])+)(?P<equals>=)?(?P<value>(?:\\.|[^,\\])*)", re.DOTALL)


def recognise(root: Path) -> list[Path]:
    """Give an annotation file that has LabelMe's polygons or image size."""
    for path in _annotations(root)[:_LOOKED_AT]:
        tag, tags = xml.glimpse(path)
        if tag == "annotation" and "bndbox" not in tags and tags & {"imagesize", "polygon", "segm"}:
            return [path]
    return []


def read(root: Path, dataset: Dataset) -> None:
    """Read every annotation file.

    Polygons and masks become the boxes around them. Deleted objects, and polygons of one or two points, are skipped.

    Raises:
        StepError: a file cannot be read, or an object has neither polygon nor mask.
    """
    mask_files = [path for path in files_below(root, is_image) if "Masks" in path.relative_to(root).parts]
    dataset.masks.update(path.relative_to(root).as_posix() for path in mask_files)
    masks = Stems(root, mask_files)
    for path in _annotations(root):
        dataset.begin(path)
        _read_image(path, masks, dataset)


def _annotations(root: Path) -> list[Path]:
    return files_below(root, lambda name: name.lower().endswith(".xml"))


def _read_image(path: Path, masks: Stems, dataset: Dataset) -> None:
    parts: dict[str, Node] = {}
    objects: list[Node] = []
    for node in xml.children(path, "annotation"):
        objects += [node] if node.tag == "object" else []
        parts.setdefault(node.tag, node)
    folder, name = (parts[tag].text.strip() if tag in parts else "" for tag in ("folder", "filename"))
    if not name:
        raise StepError(f"{path} has no <filename>, so its image is unknown: dump the task again")
    size = parts.get("imagesize")
    place = _place(path, folder, dataset.root)
    image = dataset.image(
        join(place.images, name) if ".." not in folder else join(folder, name),
        subset=place.subset,
        width=size and size.content("ncols"),
        height=size and size.content("nrows"),
    )
    for node in objects:
        if node.content("deleted").strip() == "1":
            dataset.findings.note("skipped", "deleted object", dataset.names[image])
        else:
            _read_object(node, image, place.masks, masks, dataset)


class _Place(NamedTuple):
    """Where an annotation file's image and masks are, from the root."""

    subset: str
    images: PurePosixPath
    masks: PurePosixPath


def _place(path: Path, folder: str, root: Path) -> _Place:
    parts = path.relative_to(root).parts[:-1]
    if "Annotations" in parts:
        base = PurePosixPath(*parts[: parts.index("Annotations")])
        return _Place(folder, base / "Images" / folder, base / "Masks" / folder)
    inner = path_parts(folder)
    outer = parts[: -len(inner)] if inner and parts[-len(inner) :] == inner else parts
    return _Place(outer[-1] if outer else "", PurePosixPath(*parts), PurePosixPath(*outer, "Masks"))


def _read_object(node: Node, image: int, mask_folder: PurePosixPath, masks: Stems, dataset: Dataset) -> None:
    attributes = _attributes(node.content("attributes"))
    attributes["occluded"] = node.content("occluded").strip() in ("yes", "1")
    name = node.content("name").strip()
    category = dataset.category(name) if name else None
    polygon, mask = node.child("polygon"), node.child("segm")
    box: Box | None
    if polygon is not None:
        points = [(point.child_number("x"), point.child_number("y")) for point in polygon.children if point.tag == "pt"]
        is_box = node.content("type").strip() == "bounding_box"
        if not is_box and len(points) < 3:
            skip(dataset, image, "point or line")
            return
        box = around_points(points)
        box = rotated(box, attributes) if box and is_box else box
    elif mask is not None:
        box = _around_mask(mask, mask_folder, masks)
    else:
        raise StepError(f"{node.where}: <object> has neither <polygon> nor <segm>: dump the task again")
    add_object(dataset, image, category, box, attributes, crowd=False)


def _attributes(written: str) -> dict[str, Any]:
    """Read `name=value, flag, other="quoted"`; a name alone is true, a backslash keeps the sign after it."""

    def plain(part: str) -> str:
        return re.sub(r"\\(.)", r"\1", part.strip(), flags=re.DOTALL)

    found: dict[str, Any] = {}
    for part in _ATTRIBUTE.finditer(written):
        value = part["value"].strip()
        quoted = len(value) > 1 and value[0] == value[-1] == '"'
        read = plain(value[1:-1]) if quoted else text.value(plain(value)) if part["equals"] else True
        if name := plain(part["name"]):
            found[name] = read
    return found


def _around_mask(node: Node, folder: PurePosixPath, masks: Stems) -> Box | None:
    """The box around the painted pixels of a mask's file, or the one written beside it where there is no file."""
    path = masks.find(join(folder, node.content("mask").strip()))
    if path is None:
        box = node.child("box")
        if box is None:
            raise StepError(f"{node.where}: <segm> has no <box>, and its mask is missing: dump the task again")
        left, top, right, bottom = (box.child_number(edge) for edge in ("xmin", "ymin", "xmax", "ymax"))
        return left, top, right - left, bottom - top
    return around_pixels(read_mask(path, "RGB").max(2) > 0)
