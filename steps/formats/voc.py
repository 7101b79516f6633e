"""Pascal VOC: `Annotations/*.xml`, an image each, `ImageSets/Main/<subset>.txt`, `JPEGImages/`, `labelmap.txt`.

Corners are read as CVAT writes them, edges of the box counted from 0; the challenge's own files count pixels from 1.
Source: host.robots.ox.ac.uk/pascal/VOC/voc2012/devkit_doc.pdf.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from steps.common.errors import StepError
from steps.dataset.lookup import Stems, files_below, is_image, join, normalized
from steps.dataset.model import Dataset
from steps.dataset.overlap import iou
from steps.formats import text, voc_masks, xml
from steps.formats.objects import add_object, rotated, skip
from steps.formats.shapes import Box
from steps.formats.xml import Node

TAG = "cvat_voc"
TITLE = "PASCAL VOC 1.1"

_LOOKED_AT = 20
"""Files that `recognise` opens at most: one with an object, or with its image's size, tells."""
SAME_OBJECT = 0.8
"""IoU from which a mask and a box of one class are one object."""
_FLAGS = ("difficult", "truncated", "occluded")


def recognise(root: Path) -> list[Path]:
    """Give an annotation file that has VOC's boxes or image size, or the lists of a dump that has none of these."""
    for path in _annotations(root)[:_LOOKED_AT]:
        tag, tags = xml.glimpse(path)
        if tag == "annotation" and not tags & {"imagesize", "polygon"} and tags & {"bndbox", "size", "segmented"}:
            return [path]
    return _lists(root, "Main")


def read(root: Path, dataset: Dataset, lists: str = "Main") -> None:
    """Read every annotation file, and the images that only a list in `ImageSets/<lists>` names.

    An object's parts are boxes too. Masks become the boxes around them, unless their object has a box already.

    Raises:
        StepError: a file cannot be read, or an object's box lacks a corner.
    """
    images = files_below(root, is_image)
    jpegs = Stems(root, _in_folder(root, images, "JPEGImages"))
    masks = _Masks(root, images)
    dataset.masks |= masks.files
    for path in files_below(root, lambda name: name == "labelmap.txt"):
        masks.label_map += _label_map(path)
    for name, _ in masks.label_map:
        # The background is what a mask has where nothing is.
        if name != "background":
            dataset.category(name)
    subsets = _subsets(root, lists)
    seen = set()
    for path in _annotations(root):
        dataset.begin(path)
        base, name = _place(path, root)
        key = base, normalized(name)
        seen.add(key)
        image, boxes = _read_image(path, base, name, subsets.get(key, ""), jpegs, dataset)
        masks.add(base, name, image, boxes, dataset)
    for (base, name), subset in subsets.items():
        if (base, name) not in seen:
            own = jpegs.find(join(base / "JPEGImages", name))
            image = dataset.image(own.relative_to(root).as_posix() if own else name, subset=subset)
            masks.add(base, name, image, [], dataset)


class _Masks:
    """The dump's masks, by their images' names."""

    def __init__(self, root: Path, images: Sequence[Path]) -> None:
        self.label_map: list[tuple[str, str]] = []
        """Names and colours, in the order of `labelmap.txt`."""
        objects, classes = (_in_folder(root, images, f"Segmentation{kind}") for kind in ("Object", "Class"))
        self._objects, self._classes = Stems(root, objects), Stems(root, classes)
        self.files = {path.relative_to(root).as_posix() for path in (*objects, *classes)}

    def add(self, base: Path, name: str, image: int, boxes: list[tuple[str, Box]], dataset: Dataset) -> None:
        """Add the boxes around the masks of an image that has these boxes already."""
        object_mask = self._objects.exact(join(base / "SegmentationObject", name))
        class_mask = self._classes.exact(join(base / "SegmentationClass", name))
        if object_mask is None or class_mask is None:
            if object_mask or class_mask:
                skip(dataset, image, "mask of classes or of objects alone")
            return
        for label, box in voc_masks.objects(object_mask, class_mask, voc_masks.class_colours(self.label_map)):
            if any(label == written and iou(box, other).item() >= SAME_OBJECT for written, other in boxes):
                dataset.findings.note("skipped", "mask of an object that also has a box", dataset.names[image])
            else:
                add_object(dataset, image, dataset.category(label) if label else None, box, {}, crowd=False)


def _in_folder(root: Path, paths: Sequence[Path], folder: str) -> list[Path]:
    return [path for path in paths if folder in path.relative_to(root).parts]


def _annotations(root: Path) -> list[Path]:
    """The XML below `Annotations`, or all of it in a flat dump."""
    paths = files_below(root, lambda name: name.lower().endswith(".xml"))
    return [path for path in paths if "Annotations" in path.relative_to(root).parts] or paths


def _place(path: Path, root: Path) -> tuple[Path, str]:
    """The dump's folder from the root, and the image's name in it without suffix."""
    parts = path.relative_to(root).with_suffix("").parts
    if "Annotations" not in parts:
        return Path(*parts[:-1]), parts[-1]
    place = parts.index("Annotations")
    return Path(*parts[:place]), "/".join(parts[place + 1 :])


def _label_map(path: Path) -> list[tuple[str, str]]:
    """Names and colours of "label:color_rgb:parts:actions"."""
    rows = [line.split(":") for _, line in text.lines(path) if not line.startswith("#")]
    return [(row[0].strip(), row[1].strip() if len(row) > 1 else "") for row in rows if row[0].strip()]


def is_list(path: Path, kind: str) -> bool:
    """Tell whether a file is a list of images in `ImageSets/<kind>`."""
    return path.parts[-3:-1] == ("ImageSets", kind)


def _lists(root: Path, kind: str) -> list[Path]:
    return [path for path in files_below(root, lambda name: name.lower().endswith(".txt")) if is_list(path, kind)]


def _subsets(root: Path, kind: str) -> dict[tuple[Path, str], str]:
    """The subset of each image, from the lists of `ImageSets/<kind>`."""
    found: dict[tuple[Path, str], str] = {}
    lists = _lists(root, kind)
    stems = {path.stem for path in lists}
    for path in sorted(lists, key=lambda path: path.stem == "trainval"):
        # "<class>_<subset>.txt" tells which images show a class; what is in "trainval" is in "train" or "val" already.
        if any(path.stem[place + 1 :] in stems for place, sign in enumerate(path.stem) if sign == "_"):
            continue
        base = path.relative_to(root).parent.parent.parent
        for _, line in text.lines(path):
            if not line.startswith("#"):
                name = normalized(line.strip('"').replace("\\", "/"))
                found.setdefault((base, name), path.stem)
    return found


def _read_image(
    path: Path, base: Path, name: str, subset: str, jpegs: Stems, dataset: Dataset
) -> tuple[int, list[tuple[str, Box]]]:
    """Add the image and its boxes; give both."""
    parts: dict[str, Node] = {}
    objects: list[Node] = []
    for node in xml.children(path, "annotation"):
        objects += [node] if node.tag == "object" else []
        parts.setdefault(node.tag, node)
    written = parts["filename"].text.strip() if "filename" in parts else ""
    folder = base / "JPEGImages"
    own = jpegs.find(join(folder, name))
    if own is not None and (not written or jpegs.find(join(folder, written)) is None):
        # Without a usable <filename>, the image is the one that is named as the annotation file is.
        if written:
            dataset.findings.note("repaired", "image found by the name of its annotation file", path.name)
        written = own.relative_to(dataset.root / folder).as_posix()
    size = parts.get("size")
    image = dataset.image(
        join(folder, written or name),
        subset=subset,
        width=size and size.content("width"),
        height=size and size.content("height"),
    )
    return image, [found for node in objects for found in _read_object(node, image, dataset)]


def _read_object(node: Node, image: int, dataset: Dataset) -> Iterator[tuple[str, Box]]:
    attributes: dict[str, Any] = {flag: node.content(flag).strip() in ("1", "true", "True") for flag in _FLAGS}
    if pose := node.content("pose").strip():
        attributes["pose"] = pose
    for attribute in node.below("attribute"):
        attributes[attribute.content("name")] = text.value(attribute.content("value"))
    for element, own in ((node, attributes), *((part, {}) for part in node.children if part.tag == "part")):
        if element.child("bndbox") is None and element.child("point") is not None:
            skip(dataset, image, "point")
            continue
        name = element.content("name").strip()
        box = rotated(_box(element), own)
        add_object(dataset, image, dataset.category(name) if name else None, box, own, crowd=False)
        yield name, box


def _box(node: Node) -> Box:
    corners = node.child("bndbox")
    if corners is None:
        raise StepError(f"{node.where}: <{node.tag}> has no <bndbox>: dump the task again")
    left, top, right, bottom = (corners.child_number(edge) for edge in ("xmin", "ymin", "xmax", "ymax"))
    return left, top, right - left, bottom - top
