"""CVAT's own XML, "CVAT for images 1.1" and "CVAT for video 1.1": `annotations.xml`, `images/`.

Source: docs.cvat.ai/docs/manual/advanced/xml_format.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from steps.common.budgets import MOST_INTERPOLATED, Budget
from steps.common.errors import StepError
from steps.common.messages import printable
from steps.dataset.lookup import Stems, files_below, is_image, join, split_suffix
from steps.dataset.model import Dataset
from steps.formats import text, xml
from steps.formats.frames import in_order
from steps.formats.objects import add_object, skip
from steps.formats.shapes import Box, around_ellipse, around_polygons, around_rle, around_rotated
from steps.formats.xml import Node

TAG = "cvat"
TITLE = "CVAT 1.1"

_FRAME = re.compile(r"(?:^|_)frame_(\d+)$", re.ASCII)
_STEP = re.compile(r"step\s*=\s*(\d{1,9})", re.ASCII)
_NO_BOXES = {"polyline", "points", "cuboid", "tag", "skeleton"}
_OTHERWISE = "dump the task as 'CVAT for images 1.1'"


def recognise(root: Path) -> list[Path]:
    """Give the XML files whose root is `<annotations>`."""
    paths = files_below(root, lambda name: name.lower().endswith(".xml"))
    # Beside a folder of a hundred thousand annotation files of another format, CVAT's lies higher or has its own name.
    own = sum(path.name == "annotations.xml" for path in paths)
    paths = sorted(paths, key=lambda path: (path.name != "annotations.xml", len(path.parts), path))[: max(own, 20)]
    found = [path for path in paths if xml.glimpse(path)[0] == "annotations"]
    return sorted(found)


def read(root: Path, dataset: Dataset) -> None:
    """Read images, and tracks frame by frame.

    Polygons, masks, turned boxes and ellipses become the boxes around them; other shapes are skipped, and a track's
    frames where it is outside have no box.

    Raises:
        StepError: a file cannot be read, a shape lacks a field, or it is unclear which image a frame is.
    """
    paths = recognise(root)
    if not paths:
        raise StepError(f"{root} holds no annotations.xml of CVAT's: dump the task as 'CVAT for images 1.1'")
    images = Stems(root, files_below(root, is_image))
    for path in paths:
        dataset.begin(path)
        frames: _Frames | None = None
        tasks: list[_Task] = []
        for node in xml.children(path, "annotations"):
            if node.tag == "meta":
                tasks = _read_meta(node, dataset)
            elif node.tag == "image":
                # A project's dump tells subsets itself, a task's once for all; datumaro writes a file for each.
                of_task = tasks[0].subset if len(tasks) == 1 and tasks[0].subset != "default" else ""
                _read_image(node, of_task if path.stem == "annotations" else path.stem, images, dataset)
            elif node.tag == "track":
                frames = frames or _Frames(path, tasks, "subset" in node.attributes, dataset)
                _read_track(node, frames, dataset)


@dataclass(frozen=True)
class _Task:
    """A task, or a job of one: what the file says of its frames."""

    subset: str
    size: int
    start: int
    step: int
    mode: str
    """`interpolation` for a video, `annotation` for images; empty where it is not said."""


def _read_meta(meta: Node, dataset: Dataset) -> list[_Task]:
    """Add the labels, and give the tasks of the dump."""
    for labels in meta.below("labels"):
        for label in labels.children:
            # A label with a parent is a point of a skeleton.
            if label.content("name").strip() and not label.content("parent").strip():
                dataset.category(label.content("name").strip())
    tasks = [node for tag in ("task", "job") for node in meta.below(tag) if node.child("size") is not None]
    return [
        _Task(
            subset=node.content("subset").strip(),
            size=_count(node, "size", 0),
            start=_count(node, "start_frame", 0),
            step=int(found[1]) if (found := _STEP.search(node.content("frame_filter"))) else 1,
            mode=node.content("mode").strip(),
        )
        for node in tasks
    ]


def _count(node: Node, tag: str, absent: int) -> int:
    child = node.child(tag)
    return text.whole(child.text.strip(), child.where, f"<{tag}>") if child and child.text.strip() else absent


def _read_image(node: Node, subset: str, images: Stems, dataset: Dataset) -> None:
    name = node.attribute("name")
    subset = node.attributes.get("subset", subset)
    base = node.path.parent.relative_to(dataset.root)
    # A project's images lie in a folder for each subset, a task's do not.
    places = (images.exact(join(base / folder, name)) for folder in (f"images/{subset}", "images"))
    found = next(filter(None, places), None)
    image = dataset.image(
        found.relative_to(dataset.root).as_posix() if found else name,
        subset=subset,
        width=node.attributes.get("width"),
        height=node.attributes.get("height"),
    )
    for shape in node.children:
        if shape.tag in _NO_BOXES or shape.tag not in _SHAPES:
            skip(dataset, image, shape.tag if shape.tag in _NO_BOXES else "annotation of an unknown type")
            continue
        attributes = _attributes(shape)
        box = _SHAPES[shape.tag](shape)
        add_object(dataset, image, _category(shape, dataset), box, attributes, crowd=False)


def _category(node: Node, dataset: Dataset) -> int | None:
    label = node.attributes.get("label", "").strip()
    return dataset.category(label) if label else None


def _attributes(shape: Node) -> dict[str, Any]:
    found: dict[str, Any] = {
        child.attributes.get("name", ""): text.value(child.text) for child in shape.children if child.tag == "attribute"
    }
    found["occluded"] = shape.attributes.get("occluded") == "1"
    return found


@dataclass(frozen=True)
class _Seen:
    """A track's object in one frame."""

    frame: int
    outside: bool
    box: Box | None
    attributes: dict[str, Any]


def _read_track(track: Node, frames: _Frames, dataset: Dataset) -> None:
    category = _category(track, dataset)
    subset = track.attributes.get("subset", "")
    seen: list[_Seen] = []
    for shape in track.children:
        frame = text.whole(shape.attribute("frame"), shape.where, f"'frame' of <{shape.tag}>")
        if shape.tag in _NO_BOXES or shape.tag not in _SHAPES:
            skip(dataset, frames.image(frame, subset), shape.tag if shape.tag in _NO_BOXES else "unknown annotation")
            continue
        attributes = {**_attributes(shape), "track_id": text.value(track.attributes.get("id", ""))}
        outside = shape.attributes.get("outside") == "1"
        seen.append(_Seen(frame, outside, _SHAPES[shape.tag](shape), attributes))
    seen.sort(key=lambda one: one.frame)
    # CVAT dumps images as tracks too: an object of theirs is in one frame only, and outside in the next.
    dataset.video |= sum(not one.outside for one in seen) > 1
    for one in (*seen, *_between(seen, frames, dataset)):
        if not one.outside:
            add_object(dataset, frames.image(one.frame, subset), category, one.box, one.attributes, crowd=False)


def _between(seen: Sequence[_Seen], frames: _Frames, dataset: Dataset) -> Iterator[_Seen]:
    """Interpolate where a file has a track's keyframes only, for frames that the dump has images of.

    CVAT itself writes every frame, and leaves out those whose images it leaves out.
    """
    present = frames.present
    for before, after in pairwise(seen):
        if after.frame - before.frame < 2 or before.outside or before.box is None or after.box is None:
            continue
        between = present[bisect_right(present, before.frame) : bisect_left(present, after.frame)]
        frames.budget.spend(4 * len(between))
        for frame in between:
            share = (frame - before.frame) / (after.frame - before.frame)
            x, y, width, height = (
                start + share * (end - start) for start, end in zip(before.box, after.box, strict=True)
            )
            dataset.findings.note("repaired", "frame between a track's keyframes, interpolated", f"frame {frame}")
            yield _Seen(frame, False, (x, y, width, height), before.attributes)


class _Frames:
    """The images of a task's frames: their numbers are all that tracks give.

    A video's frames are named by their numbers. Images keep their names, and are numbered from the task's first
    frame in its order. A project's images lie in a folder for each subset, and its tracks say which is theirs.
    """

    def __init__(self, path: Path, tasks: Sequence[_Task], is_project: bool, dataset: Dataset) -> None:
        self.budget = Budget(MOST_INTERPOLATED, f"{path} leaves too many frames between its keyframes: {_OTHERWISE}")
        self._path = path
        self._dataset = dataset
        self._is_project = is_project
        self._files: dict[tuple[str, int], str] = {}
        self._images: dict[tuple[str, int], int] = {}
        folder = path.parent / "images"
        folder = folder if folder.is_dir() and not folder.is_symlink() else path.parent
        images = {file.relative_to(folder).as_posix(): file for file in files_below(folder, is_image)}
        subsets = sorted({name.partition("/")[0] for name in images if "/" in name}) if is_project else [""]
        of_folder: dict[str, dict[str, Path]] = defaultdict(dict)
        for name, file in images.items():
            first, _, rest = name.partition("/") if is_project else ("", "", name)
            of_folder[first][rest] = file
        tasks_of: dict[str, list[_Task]] = defaultdict(list)
        for task in tasks:
            tasks_of[task.subset if is_project else ""].append(task)
        for subset in subsets:
            own = of_folder[subset]
            of_subset = tasks_of[subset]
            if is_project and not of_subset and len(tasks) == len(subsets) == 1:
                of_subset = list(tasks)
            self._add(subset, own, of_subset)
        self.present = sorted({frame for _, frame in self._files})
        # Frames without an object are part of a video all the same.
        for subset, frame in self._files:
            self.image(frame, subset)

    def _add(self, subset: str, images: Mapping[str, Path], tasks: Sequence[_Task]) -> None:
        """Number the images of a subset."""
        if len(tasks) > 1:
            raise StepError(
                f"{self._path} holds {len(tasks)} tasks of the subset '{printable(subset)}', whose frames share "
                "their numbers: dump each task by itself, or the project as 'CVAT for images 1.1'"
            )
        named = {name: int(found[1]) for name in images if (found := _FRAME.search(split_suffix(name)[0]))}
        task = tasks[0] if tasks else None
        if task is None or task.mode == "interpolation" or (named and not task.mode):
            numbers = named
            if images and not named:
                raise StepError(
                    f"{self._path} names frames by number, and its images have none: dump the task as "
                    "'CVAT for images 1.1'"
                )
        elif images:
            if len(images) != task.size:
                raise StepError(
                    f"{self._path} numbers images by their place in the task, and its {len(images)} images for "
                    f"{task.size} frames leave the places unknown: dump the task as 'CVAT for images 1.1'"
                )
            ordered = in_order(list(images), self._dataset.frame_order, self._path)
            numbers = {name: task.start + place * task.step for place, name in enumerate(ordered)}
        else:
            numbers = {}
        for name, frame in numbers.items():
            image = images[name]
            if (subset, frame) in self._files:
                raise StepError(
                    f"{self._path}: two images are frame {frame}, {self._files[subset, frame]} and {image}: "
                    "dump each task by itself"
                )
            self._files[subset, frame] = image.relative_to(self._dataset.root).as_posix()

    def image(self, frame: int, subset: str) -> int:
        """The image of a frame, added when it is first met."""
        key = (subset if self._is_project else "", frame)
        if key not in self._images:
            name = self._files.get(key, f"images/frame_{frame:06}")
            self._images[key] = self._dataset.image(name, subset=subset)
        return self._images[key]


def _box(shape: Node) -> Box:
    left, top, right, bottom = (shape.number(edge) for edge in ("xtl", "ytl", "xbr", "ybr"))
    degrees = _rotation(shape)
    box = left, top, right - left, bottom - top
    return around_rotated(*box, degrees) if degrees else box


def _ellipse(shape: Node) -> Box:
    centre_x, centre_y, radius_x, radius_y = (shape.number(name) for name in ("cx", "cy", "rx", "ry"))
    return around_ellipse(centre_x, centre_y, radius_x, radius_y, _rotation(shape))


def _rotation(shape: Node) -> float:
    return shape.number("rotation") if "rotation" in shape.attributes else 0.0


def _polygon(shape: Node) -> Box | None:
    field = f"'points' of <{shape.tag}>"
    flat = [value for pair in shape.attribute("points").split(";") for value in pair.split(",")]
    values = text.numbers(flat, shape.where, field)
    if len(values) % 2:
        raise StepError(f"{shape.where}: {field} has a point without its y: dump the task again")
    return around_polygons([values])


def _mask(shape: Node) -> Box | None:
    """CVAT's runs go along the rows of the mask's own box: as columns, of the picture turned about its diagonal."""
    where = shape.where
    runs = [text.whole(run, where, "'rle' of <mask>") for run in shape.attribute("rle").split(",")]
    left, top, width, height = (
        text.whole(shape.attribute(name), where, f"'{name}' of <mask>") for name in ("left", "top", "width", "height")
    )
    box = around_rle({"size": [width, height], "counts": runs})
    return box and (left + box[1], top + box[0], box[3], box[2])


_SHAPES: Mapping[str, Any] = {"box": _box, "ellipse": _ellipse, "polygon": _polygon, "mask": _mask}
