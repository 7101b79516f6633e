"""A backup of a task in CVAT: `task.json`, `annotations.json`, `data/manifest.jsonl` and the images in `data/`.

`annotations.json` has an entry for each job, with the shapes as CVAT's API has them (docs.cvat.ai/docs/api_sdk): the
frames count from 0 in the order of the manifest, and tracks have keyframes only (cvat/apps/engine/backup.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import orjson

from steps.common.budgets import MOST_INTERPOLATED, Budget
from steps.common.errors import StepError
from steps.dataset.lookup import files_below, join
from steps.dataset.model import Dataset
from steps.formats import text
from steps.formats.objects import add_object, skip
from steps.formats.shapes import Box, around_ellipse, around_polygons, around_rle, around_rotated

TAG = "cvat_backup"
TITLE = "CVAT task backup"

_OTHERWISE = "dump the task as 'CVAT for images 1.1' with its images"
_NO_BOXES = {"polyline", "points", "cuboid", "skeleton"}


def recognise(root: Path) -> list[Path]:
    """Give each task's `task.json` that has annotations beside it."""
    found = files_below(root, lambda name: name == "task.json")
    return [path for path in found if (path.parent / "annotations.json").is_file()]


def read(root: Path, dataset: Dataset) -> None:
    """Read each task: its images, shapes, and tracks interpolated as CVAT does.

    Raises:
        StepError: a file is not of this form, the task is a video, or its frames are a part of its images.
    """
    for path in recognise(root):
        _read_task(path, dataset)


def _read_task(path: Path, dataset: Dataset) -> None:
    dataset.begin(path)
    task = _need(text.read_document(path), dict, str(path), "expected a JSON object at the top level")
    data = _need(task.get("data"), dict, str(path), "'data' is not an object")
    for label in _need(task.get("labels", []), list, str(path), "'labels' is not a list"):
        _need(label, dict, str(path), "a label is not an object")
        if label.get("name") and label.get("type") != "skeleton":
            dataset.category(str(label["name"]))
    if data.get("start_frame") or data.get("frame_filter"):
        raise StepError(f"{path}: the task has a part of its images' frames, and does not say which: {_OTHERWISE}")
    frames_gone = _need(data.get("deleted_frames") or [], list, str(path), "'deleted_frames' is not a list")
    deleted = {text.whole(frame, str(path), "'deleted_frames'") for frame in frames_gone}
    images = _images(path, str(task.get("subset") or ""), deleted, dataset)
    source = path.parent / "annotations.json"
    entries = _need(text.read_document(source), list, str(source), "expected a JSON array at the top level")
    jobs = task.get("jobs")
    seen: set[int] = set()
    budget = Budget(MOST_INTERPOLATED, f"{source} makes too many boxes of its tracks' keyframes: {_OTHERWISE}")
    for index, entry in enumerate(entries):
        where = f"{source}: [{index}]"
        _need(entry, dict, where, "it is not an object")
        job = jobs[index] if isinstance(jobs, list) and index < len(jobs) and isinstance(jobs[index], dict) else {}
        if job.get("type", "annotation") != "annotation":
            continue
        first = text.whole(job.get("start_frame", 0), f"{path}: jobs[{index}]", "'start_frame'")
        last = text.whole(job.get("stop_frame", len(images) - 1), f"{path}: jobs[{index}]", "'stop_frame'")
        if first < 0 or last >= len(images):
            raise StepError(
                f"{path}: jobs[{index}] has the frames {first} to {last} of {len(images)} images: {_OTHERWISE}"
            )
        # Frames that two jobs share are the first one's.
        budget.spend(max(last + 1 - first, 0))
        frames = set(range(first, last + 1)) - seen
        seen |= frames
        for shape, place in _shapes(entry, where, last + 1, budget):
            frame = shape["frame"]
            if frame >= len(images):
                raise StepError(f"{place} is on frame {frame}, but there are {len(images)} images: {_OTHERWISE}")
            if frame in frames and frame not in deleted:
                _read_shape(shape, place, images[frame], dataset)


def _need(value: Any, kind: type, where: str, wrong: str) -> Any:
    if not isinstance(value, kind):
        raise StepError(f"{where}: {wrong}: back the task up again, or {_OTHERWISE}")
    return value


def _images(path: Path, subset: str, deleted: set[int], dataset: Dataset) -> list[int]:
    """Add the images in the order of the manifest; -1 stands for one that was deleted."""
    manifest = path.parent / "data" / "manifest.jsonl"
    if not manifest.is_file() or manifest.is_symlink():
        raise StepError(f"{manifest} is missing, so the order of the images is unknown: {_OTHERWISE}")
    images: list[int] = []
    for number, line in text.lines(manifest):
        try:
            entry = orjson.loads(line)
        except orjson.JSONDecodeError as error:
            raise StepError(f"{manifest}, line {number}: not readable JSON ({error.msg}): {_OTHERWISE}") from None
        _need(entry, dict, f"{manifest}, line {number}", "it is not an object")
        if entry.get("type") == "video":
            raise StepError(f"{manifest}: the task is a video, whose frames are not in its backup: {_OTHERWISE}")
        if not isinstance(entry.get("name"), str) or not isinstance(entry.get("extension"), str):
            continue
        if len(images) in deleted:
            images.append(-1)
            continue
        name = join(manifest.parent.relative_to(dataset.root), entry["name"] + entry["extension"])
        image = dataset.image(name, subset=subset, width=entry.get("width"), height=entry.get("height"))
        images.append(image)
    return images


def _shapes(entry: Mapping[str, Any], where: str, end: int, budget: Budget) -> Iterator[tuple[dict[str, Any], str]]:
    """Yield shapes, and each track's frame by frame, until a job's end; and where each is."""
    for index, shape in enumerate(_need(entry.get("shapes", []), list, where, "'shapes' is not a list")):
        place = f"{where}.shapes[{index}]"
        yield _checked(shape, place), place
    for index, track in enumerate(_need(entry.get("tracks", []), list, where, "'tracks' is not a list")):
        place = f"{where}.tracks[{index}]"
        _need(track, dict, place, "it is not an object")
        keyframes = [
            {**_checked(shape, place), "label": track.get("label")}
            for shape in _need(track.get("shapes"), list, place, "'shapes' is not a list")
        ]
        for shape in _interpolated(sorted(keyframes, key=lambda shape: shape["frame"]), end):
            budget.spend(4 + len(shape["points"]))
            yield shape, place


def _checked(shape: Any, where: str) -> dict[str, Any]:
    _need(shape, dict, where, "it is not an object")
    points = text.numbers(_need(shape.get("points", []), list, where, "'points' is not a list"), where, "'points'")
    frame = text.whole(shape.get("frame"), where, "'frame'")
    rotation = text.number(shape.get("rotation") or 0, where, "'rotation'")
    return {**shape, "frame": frame, "points": points, "rotation": rotation}


def _interpolated(keyframes: Sequence[dict[str, Any]], end: int) -> Iterator[dict[str, Any]]:
    """Move a track's points and angle evenly from keyframe to keyframe; the last one stays."""
    if not keyframes:
        return
    last = {**keyframes[-1], "frame": max(end, keyframes[-1]["frame"] + 1)}
    for before, after in pairwise([*keyframes, last]):
        if before.get("outside"):
            continue
        turn = (after["rotation"] - before["rotation"] + 180) % 360 - 180
        moves = len(before["points"]) == len(after["points"]) and before.get("type") != "mask"
        for frame in range(max(before["frame"], 0), min(after["frame"], end)):
            share = (frame - before["frame"]) / (after["frame"] - before["frame"])
            points = before["points"]
            if moves:
                points = [start + share * (stop - start) for start, stop in zip(points, after["points"], strict=True)]
            yield {**before, "frame": frame, "points": points, "rotation": before["rotation"] + share * turn}


def _read_shape(shape: Mapping[str, Any], where: str, image: int, dataset: Dataset) -> None:
    kind = shape.get("type")
    if not isinstance(kind, str) or kind not in _POINTS:
        known = isinstance(kind, str) and kind in _NO_BOXES
        skip(dataset, image, str(kind) if known else "annotation of an unknown type")
        return
    points = shape["points"]
    if len(points) < _POINTS[kind] or (kind in ("rectangle", "ellipse") and len(points) != _POINTS[kind]):
        raise StepError(f"{where}: 'points' of a {kind} has {len(points)} numbers: back the task up again")
    attributes: dict[str, Any] = {
        str(attribute.get("name")): attribute.get("value")
        for attribute in _need(shape.get("attributes") or [], list, where, "'attributes' is not a list")
        if isinstance(attribute, dict)
    }
    attributes["occluded"] = shape.get("occluded") is True
    label = shape.get("label")
    category = dataset.category(label) if isinstance(label, str) and label else None
    add_object(dataset, image, category, _box(kind, points, shape["rotation"]), attributes)


_POINTS = {"rectangle": 4, "ellipse": 4, "polygon": 6, "mask": 5}
"""How many numbers a shape has, or has at least."""


def _box(kind: str, points: Sequence[float], degrees: float) -> Box | None:
    if kind == "rectangle":
        left, top, right, bottom = points
        return around_rotated(left, top, right - left, bottom - top, degrees)
    if kind == "ellipse":
        # The centre, then the right and the upper edge.
        centre_x, centre_y, right, top = points
        return around_ellipse(centre_x, centre_y, right - centre_x, centre_y - top, degrees)
    if kind == "polygon":
        return around_polygons([points])
    # Runs along the rows of the mask's own box, then that box, its last pixel in.
    *runs, left, top, right, bottom = (int(value) if abs(value) < 2**53 else -1 for value in points)
    found = around_rle({"size": [right - left + 1, bottom - top + 1], "counts": runs})
    return found and (left + found[1], top + found[0], found[3], found[2])
