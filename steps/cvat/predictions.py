"""Predictions into tasks of a CVAT server, through `cvat_sdk.auto_annotation`."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from itertools import islice, pairwise
from typing import TYPE_CHECKING, Any

import attrs
from cvat_sdk.auto_annotation import annotate_task
from cvat_sdk.core.progress import ProgressReporter
from cvat_sdk.datasets.task_dataset import TaskDataset

from steps.common.errors import StepError
from steps.common.messages import some
from steps.common.progress import progress
from steps.cvat.export import Part
from steps.cvat.server import Server, in_words
from trainer.data.image_file import open_image

if TYPE_CHECKING:
    from PIL.Image import Image

    from steps.cvat.function import DetectorFunction

log = logging.getLogger(__name__)

BATCH = 8
"""Images that are predicted on at once."""


def matched(server: Server, kind: str, number: int, classes: Sequence[str], unmatched: str) -> list[str]:
    """Give the classes that a task or a project has a label for rectangles of, by name, and say which it has not.

    Raises:
        StepError: there are none, or some are missing and `unmatched` is `fail`.
    """
    types = {label["name"]: label["type"] for label in server.pages("/api/labels", **{f"{kind}_id": number})}
    missing = [name for name in classes if name not in types]
    other = [name for name in classes if types.get(name, "any") not in ("any", "rectangle")]
    known = [name for name in classes if name not in missing and name not in other]
    lacks = f"{kind} {number} of {server.host} has no label for rectangles of {some(missing + other)}"
    if not known:
        raise StepError(f"{lacks}: it has {some(types) or 'no labels'}; add the model's in CVAT")
    if (missing or other) and unmatched == "fail":
        raise StepError(f"{lacks}: add it in CVAT, or leave such predictions out with --unmatched-labels skip")
    if missing or other:
        log.warning("WARNING: %s: such predictions are left out", lacks)
    return known


def annotate(server: Server, part: Part, function: DetectorFunction, *, replace: bool) -> int:
    """Write a function's rectangles into the frames of a task, or of a job of it, that have none.

    Frames that people annotated are left alone, and so are those of an earlier run unless `replace`: then what CVAT
    marks as automatic on them is taken out once the new is in. What people corrected, it does not mark so.

    Returns:
        How many rectangles were written.

    Raises:
        StepError: the server refuses, or the SDK cannot read it.
    """
    number = part.task["id"]
    annotations = server.get(f"/api/tasks/{number}/annotations/")
    (job,) = (job for job in part.jobs if job["id"] == part.id) if part.kind == "job" else (None,)
    size = int(part.task["size"])
    frames = range(job["start_frame"], job["stop_frame"] + 1) if job else range(size)
    busy = {shape["frame"] for shape in annotations["shapes"] if not (replace and _automatic(shape))}
    for track in annotations["tracks"]:
        busy.update(_seen(track, size))
    free = set(frames) - busy
    where = f"{part.kind} {part.id} of {server.host}"
    if left := len(frames) - len(free):
        log.info("%s: %d of %d frames have annotations already and are left alone", where, left, len(frames))
    if not free:
        return 0
    # By job: where jobs overlap, each has its own of a shape, and the task shows one of them.
    earlier = {
        job["id"]: [
            shape
            for shape in server.get(f"/api/jobs/{job['id']}/annotations/")["shapes"]
            if _automatic(shape) and shape["frame"] in free
        ]
        for job in (part.jobs if replace else ())
    }
    before = function.boxes
    title = f"annotating {part.kind} {part.id}"
    if part.task.get("data_original_chunk_type") == "video":
        _annotate_video(server, part, function, free, title)
    else:
        # Into the SDK's cache, from which the driver then takes it: that gives up where one chunk of many fails.
        server.patiently(f"task {number}", lambda: TaskDataset(server.client, number, load_annotations=False))
        with in_words(server):
            annotate_task(server.client, number, function, pbar=_Batches(function, free, title))
    for of, shapes in earlier.items():
        if shapes:
            server.send("PATCH", f"/api/jobs/{of}/annotations/", {"action": "delete"}, {"shapes": shapes})
    count, replaced = function.boxes - before, sum(map(len, earlier.values()))
    instead = f", in place of {replaced}" if replaced else ""
    log.info("%s: %d boxes on %d frames%s", where, count, len(free), instead)
    return count


def _annotate_video(server: Server, part: Part, function: DetectorFunction, wanted: set[int], title: str) -> None:
    """Do what the SDK's driver does, which takes no videos: it downloads chunks, and those are clips."""
    place = f"/api/tasks/{part.task['id']}"
    wanted = wanted - set(server.get(f"{place}/data/meta")["deleted_frames"])
    numbers = iter(sorted(wanted))
    shapes = []
    with progress(title, len(wanted), unit="frames") as advance:
        while batch := list(islice(numbers, BATCH)):
            images = []
            for number in batch:
                query = {"type": "frame", "number": number, "quality": "original"}
                with open_image(server.open(f"{place}/data", query, whole=True).data) as image:
                    image.load()
                images.append(image)
            function.look_ahead(images)
            for number, image in zip(batch, images, strict=True):
                shapes += [
                    {"type": "rectangle", "frame": number, "label_id": part.labels[name], "points": points,
                     "source": "auto", "occluded": False, "attributes": []}
                    for name, points in function.named_boxes(image)
                ]  # fmt: skip
                advance(1)
    server.send("PATCH", f"{place}/annotations/", {"action": "create"}, {"shapes": shapes})


def _automatic(shape: dict[str, Any]) -> bool:
    # CVAT makes "semi-auto" of what somebody has moved since.
    return shape.get("source") == "auto" and shape["type"] == "rectangle"


def _seen(track: dict[str, Any], size: int) -> Iterator[int]:
    """The frames in which a track's object is visible: it stays as it is until its next shape."""
    shapes = sorted(track["shapes"], key=lambda shape: shape["frame"])
    for shape, following in pairwise([*shapes, {"frame": size}]):
        if not shape["outside"]:
            yield from range(shape["frame"], following["frame"])


class _Batches(ProgressReporter):
    """Goes over the driver's samples a batch at a time, and leaves out those that are not wanted.

    The driver takes the samples from `iter`, and asks the function for one image after another.
    """

    def __init__(self, function: DetectorFunction, wanted: set[int], title: str) -> None:
        self._function, self._wanted, self._title = function, wanted, title
        self._running = ExitStack()
        self._advance: Callable[[int], None] = lambda count: None

    def start2(self, total: int, **more: Any) -> None:
        self._advance = self._running.enter_context(progress(self._title, len(self._wanted), unit="frames"))

    def report_status(self, progress: int) -> None: ...

    def advance(self, delta: int) -> None:
        self._advance(delta)

    def finish(self) -> None:
        self._running.close()

    def iter(self, iterable: Iterable[Any]) -> Iterator[Any]:
        samples = (sample for sample in iterable if sample.frame_index in self._wanted)
        while batch := list(islice(samples, BATCH)):
            images = [sample.media.load_image() for sample in batch]
            self._function.look_ahead(images)
            for sample, image in zip(batch, images, strict=True):
                yield attrs.evolve(sample, media=_Loaded(image))
                self.advance(1)


class _Loaded:
    """Media of a sample whose image is here."""

    def __init__(self, image: Image) -> None:
        self._image = image

    def load_image(self) -> Image:
        return self._image
