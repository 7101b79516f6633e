"""Dumps of a real CVAT server in `../shared/data/cvat`, and what the server itself says of each task.

`annotations.json`, `labels.json` and `meta.json` beside the dumps are the answers of its API
(docs.cvat.ai/docs/api_sdk/api). A track's shapes are its keyframes; between them CVAT interpolates linearly, after
the last one the shape stays until the task ends.
"""

from __future__ import annotations

import json
import zipfile
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any

from steps.common.errors import StepError
from steps.formats.shapes import around_ellipse, around_points, around_rotated
from steps.prepare import prepare_data

DATA = Path(__file__).resolve().parents[4] / "shared" / "data" / "cvat"
TOLERANCE = 0.5
"""Pixels that an edge may be off."""

RECTANGLES = frozenset({"rectangle"})
ROTATED = frozenset({"rectangle", "rotated rectangle"})
SEGMENTS = frozenset({"polygon", "mask", "ellipse"})
EVERYTHING = ROTATED | SEGMENTS


@dataclass(frozen=True)
class Format:
    """What a format of CVAT's can carry of the shapes that have a box.

    Attributes:
        title: as CVAT's menu has it.
        carries: kinds of shapes.
        merges: whether the shapes of one group become one object.
        loses: what else the format cannot hold, in words.
        tolerance: px that an edge may be off, by kind of shape, where the format rounds: polygons and rotated
            rectangles that are painted as pixels.
        covers: whether an object hides what lies under it.
    """

    title: str
    carries: frozenset[str]
    merges: frozenset[str] = frozenset()
    loses: str = ""
    tolerance: dict[str, float] = field(default_factory=dict)
    covers: bool = False


PAINTED = {"polygon": 1.0, "rotated rectangle": 1.0}
FORMATS = {
    "COCO_1.0": Format("COCO 1.0", EVERYTHING, merges=EVERYTHING, loses="shapes of a group are one object"),
    "COCO_Keypoints_1.0": Format("COCO Keypoints 1.0", frozenset({"skeleton"})),
    "CVAT_for_images_1.1": Format("CVAT for images 1.1", EVERYTHING),
    "CVAT_for_video_1.1": Format("CVAT for video 1.1", EVERYTHING),
    "Datumaro_1.0": Format("Datumaro 1.0", EVERYTHING),
    "KITTI_1.0": Format(
        "KITTI 1.0", RECTANGLES, loses="objects of a class in its masks are one: refused where there are any"
    ),
    "LabelMe_3.0": Format("LabelMe 3.0", EVERYTHING),
    "MOT_1.1": Format(
        "MOT 1.1", ROTATED - {"rotated rectangle"}, loses="rotations: a rotated rectangle is read unrotated"
    ),
    "Open_Images_V6_1.0": Format(
        "Open Images V6 1.0",
        EVERYTHING,
        merges=SEGMENTS,
        tolerance=PAINTED,
        loses="shapes of a group are one object, but for rectangles; polygons are whole pixels",
    ),
    "PASCAL_VOC_1.1": Format(
        "PASCAL VOC 1.1",
        EVERYTHING - {"polygon"},
        merges=SEGMENTS,
        loses="shapes of a group are one object, but for rectangles",
    ),
    "Segmentation_mask_1.1": Format(
        "Segmentation mask 1.1",
        EVERYTHING,
        merges=EVERYTHING,
        loses="what lies under another object; shapes of a group are one object; all are whole pixels",
        tolerance=PAINTED,
        covers=True,
    ),
    "YOLO_1.1": Format("YOLO 1.1", RECTANGLES),
    "YOLOv8_Detection_1.0": Format("Ultralytics YOLO Detection 1.0", RECTANGLES),
    "YOLOv8_Detection_Track_1.0": Format("Ultralytics YOLO Detection Track 1.0", RECTANGLES),
    "YOLOv8_Oriented_Bounding_Boxes_1.0": Format("Ultralytics YOLO Oriented Bounding Boxes 1.0", ROTATED),
    "YOLOv8_Pose_1.0": Format("Ultralytics YOLO Pose 1.0", frozenset({"skeleton"})),
    "YOLOv8_Segmentation_1.0": Format("Ultralytics YOLO Segmentation 1.0", SEGMENTS),
}


def format_of(stem: str) -> Format:
    """Give the format of a dump by the name of its file; from 2.25 on, CVAT says Ultralytics YOLO."""
    return FORMATS[stem.replace("Ultralytics_YOLO", "YOLOv8")]


REFUSED = {
    ("nat_sorted", "MOT_1.1"): "--frame-order",
    ("nat_sorted", "CVAT_for_video_1.1"): "--frame-order",
    ("shapes", "MOT_1.1"): "--frame-order",
    ("shapes", "KITTI_1.0"): "without what their boxes need",
}
"""Dumps that do not hold what it takes to read them, and why they are refused."""


def carried() -> list[str]:
    """What each format carries, as the lines of a Markdown table."""
    kinds = ("rectangle", "rotated rectangle", "polygon", "ellipse", "mask", "skeleton")
    rows = [
        [each.title, *("yes" if kind in each.carries else "" for kind in kinds), each.loses]
        for each in FORMATS.values()
    ]
    head = ["Format", *kinds, "what else it cannot carry"]
    return ["| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *rows)]


def refusal_of(task: str, stem: str) -> str:
    """Why a dump is to be refused; empty where it is to be read."""
    if reason := REFUSED.get((task, stem)):
        return reason
    return "" if any(expected(task, format_of(stem)).values()) else "no class" if stem in _NAMES else "has no boxes"


_NAMES = {"YOLOv8_Pose_1.0"}
"""Formats that do not even list the classes of shapes that they cannot carry."""


@dataclass(frozen=True)
class Shape:
    """An annotated object of an image: the box around it is x, y, width, height in px."""

    label: str
    kind: str
    box: tuple[float, float, float, float]
    group: int


def dumps() -> list[tuple[str, str]]:
    """Task and format of every dump."""
    return sorted((path.parent.name, path.stem) for path in DATA.glob("*/*.zip"))


def truth(task: str) -> dict[str, list[Shape]]:
    """What the server says: the shapes that have a box, by the images' names."""
    annotations, meta = (
        json.loads((DATA / task / f"{name}.json").read_text("utf-8")) for name in ("annotations", "meta")
    )
    labels = {
        label["id"]: label["name"] for label in json.loads((DATA / task / "labels.json").read_text("utf-8"))["results"]
    }
    frames = meta["frames"]
    video = len(frames) == 1 < meta["size"]
    step = int(meta["frame_filter"].partition("step=")[2] or 1)
    names = [
        f"frame_{meta['start_frame'] + index * step:06}" if video else frames[index]["name"]
        for index in range(meta["size"])
    ]
    found: dict[str, list[Shape]] = {
        name: [] for index, name in enumerate(names) if index not in meta["deleted_frames"]
    }
    tracked = (shape for track in annotations["tracks"] for shape in _interpolated(track, meta["size"]))
    for shape in (*annotations["shapes"], *tracked):
        name = names[shape["frame"]]
        box = _box(shape)
        if box is not None and name in found:
            kind = "rotated rectangle" if shape["type"] == "rectangle" and shape["rotation"] else shape["type"]
            found[name].append(Shape(labels[shape["label_id"]], kind, box, shape["group"] or 0))
    return found


def _interpolated(track: dict[str, Any], size: int) -> Iterator[dict[str, Any]]:
    shared = {"label_id": track["label_id"], "group": track["group"], "elements": []}
    keyframes = [{**shape, **shared} for shape in sorted(track["shapes"], key=lambda shape: shape["frame"])]
    last = {**keyframes[-1], "frame": size}
    for before, after in pairwise([*keyframes, last]):
        if before["outside"]:
            continue
        for frame in range(before["frame"], after["frame"]):
            share = (frame - before["frame"]) / (after["frame"] - before["frame"])
            turn = (after["rotation"] - before["rotation"] + 180) % 360 - 180
            points = before["points"]
            if len(points) == len(after["points"]):
                points = [start + share * (end - start) for start, end in zip(points, after["points"], strict=True)]
            yield {**before, "frame": frame, "points": points, "rotation": before["rotation"] + share * turn}


def _box(shape: dict[str, Any]) -> tuple[float, float, float, float] | None:
    points, kind, rotation = shape["points"], shape["type"], shape["rotation"]
    if kind == "rectangle":
        left, top, right, bottom = points
        return around_rotated(left, top, right - left, bottom - top, rotation)
    if kind == "ellipse":
        cx, cy, right, top = points
        return around_ellipse(cx, cy, right - cx, cy - top, rotation)
    if kind == "polygon":
        return around_points(zip(points[::2], points[1::2], strict=True))
    if kind == "mask":
        *runs, left, top, right, _ = map(int, points)
        width = right - left + 1
        pixels, place, inside = [], 0, False
        for run in runs:
            if inside:
                pixels += [divmod(index, width) for index in range(place, place + run)]
            place, inside = place + run, not inside
        rows, columns = zip(*pixels, strict=True)
        return left + min(columns), top + min(rows), max(columns) - min(columns) + 1, max(rows) - min(rows) + 1
    if kind == "skeleton":
        visible = [element["points"] for element in shape["elements"] if not element["outside"]]
        return around_points([(x, y) for x, y in visible])
    return None


def expected(task: str, dump_format: Format) -> dict[str, list[Shape]]:
    """The shapes that the format carries, those of a group made one where it merges them."""
    found: dict[str, list[Shape]] = {}
    for name, shapes in truth(task).items():
        carried = [shape for shape in shapes if shape.kind in dump_format.carries and shape.box[2] > 0 < shape.box[3]]
        merged = [shape for shape in carried if shape.group and shape.kind in dump_format.merges]
        kept = [shape for shape in carried if shape not in merged]
        for _, group in groupby(sorted(merged, key=lambda shape: shape.group), key=lambda shape: shape.group):
            kept.append(_union(list(group)))
        found[name] = kept
    return found


def _union(shapes: list[Shape]) -> Shape:
    left, top = (min(shape.box[axis] for shape in shapes) for axis in (0, 1))
    right, bottom = (max(shape.box[axis] + shape.box[axis + 2] for shape in shapes) for axis in (0, 1))
    return Shape(shapes[0].label, shapes[0].kind, (left, top, right - left, bottom - top), shapes[0].group)


@dataclass
class Comparison:
    """What came of a dump."""

    refusal: str = ""
    matched: int = 0
    missing: list[str] = field(default_factory=list)
    covered: list[str] = field(default_factory=list)
    """Objects of which the format hides a part."""
    extra: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        if self.refusal:
            return "refused"
        wrong = f", {len(self.extra)} wrong" if self.extra else ""
        return f"{self.matched} of {self.matched + len(self.missing)}{wrong}"


def compare(task: str, stem: str, folder: Path, **options: Any) -> Comparison:
    """Prepare the dump in `folder`, which is empty, and hold it against the truth."""
    with zipfile.ZipFile(DATA / task / f"{stem}.zip") as archive:
        archive.extractall(folder)
    dump_format = format_of(stem)
    comparison = Comparison()
    try:
        prepare_data(folder, val_split=0, dump_format="", **options)
    except StepError as error:
        comparison.refusal = str(error)
        return comparison
    found = prepared(folder)
    wanted = expected(task, dump_format)
    for name, shapes in wanted.items():
        bare = name.rpartition(".")[0] or name
        files = [file for file in found if f"/{file.rpartition('.')[0]}".endswith(f"/{bare}")]
        boxes = [box for file in files for box in found.pop(file)]
        if dump_format.covers:
            # What is left of them is anywhere within.
            covered = [shape for shape in shapes if any(_touch(shape, other) for other in shapes if other is not shape)]
            boxes = [box for box in boxes if not any(_is_part(box, shape) for shape in covered)]
            shapes = [shape for shape in shapes if shape not in covered]
            comparison.covered += [f"{name}: {shape}" for shape in covered]
        for shape in shapes:
            tolerance = dump_format.tolerance.get(shape.kind, TOLERANCE)
            match = next((box for box in boxes if _is(shape, box, tolerance)), None)
            if match is None:
                comparison.missing.append(f"{name}: {shape}")
            else:
                boxes.remove(match)
                comparison.matched += 1
        comparison.extra += [f"{name}: {box}" for box in boxes]
    comparison.extra += [f"{file}: {box}" for file, boxes in found.items() for box in boxes]
    return comparison


def _is(shape: Shape, box: tuple[str, float, float, float, float], tolerance: float) -> bool:
    label, x, y, width, height = box
    left, top, across, down = shape.box
    pairs = ((x, left), (y, top), (x + width, left + across), (y + height, top + down))
    return label == shape.label and all(abs(one - other) <= tolerance + 1e-3 for one, other in pairs)


def _touch(one: Shape, other: Shape) -> bool:
    return all(
        max(one.box[axis], other.box[axis])
        < min(one.box[axis] + one.box[axis + 2], other.box[axis] + other.box[axis + 2])
        for axis in (0, 1)
    )


def _is_part(box: tuple[str, float, float, float, float], shape: Shape) -> bool:
    label, *place = box
    return label == shape.label and all(
        shape.box[axis] - 1 <= place[axis]
        and place[axis] + place[axis + 2] <= shape.box[axis] + shape.box[axis + 2] + 1
        for axis in (0, 1)
    )


def prepared(folder: Path) -> dict[str, list[tuple[str, float, float, float, float]]]:
    """Label and box of each object that is trained on, by the image's path in `folder`."""
    document = json.loads((folder / "annotations" / "instances_train.json").read_text("utf-8"))
    names = {category["id"]: category["name"] for category in document["categories"]}
    files = {
        image["id"]: Path(image["file_name"]).relative_to(folder.resolve()).as_posix() for image in document["images"]
    }
    found: dict[str, list[tuple[str, float, float, float, float]]] = defaultdict(list)
    for file in files.values():
        found[file] = []
    for annotation in document["annotations"]:
        if not annotation["iscrowd"]:
            found[files[annotation["image_id"]]].append((names[annotation["category_id"]], *annotation["bbox"]))
    return found
