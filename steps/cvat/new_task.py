"""A new task on a CVAT server, of images that lie here."""

from __future__ import annotations

import json
import logging
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from cvat_sdk.core.uploading import DataUploader

from steps.common.errors import StepError
from steps.cvat.address import Place
from steps.cvat.export import finished, parts
from steps.cvat.function import DetectorFunction
from steps.cvat.predictions import annotate, matched
from steps.cvat.server import Server, in_words
from trainer import Detector

log = logging.getLogger(__name__)

_QUALITY = 70
"""Of the compressed images that the browser shows, as CVAT's own form has it; the originals are kept."""


@dataclass(frozen=True)
class NewTask:
    """A task to be made, on a server that was asked whether it would have it."""

    server: Server
    name: str
    project: int | None
    organization: int | None
    """That of the project: CVAT refuses a task of one's own there."""
    labels: Sequence[str]
    """Those that predictions can have; a task outside of a project has no others."""


def plan(server: Server, name: str, project: int | None, class_names: Sequence[str]) -> NewTask:
    """Ask what can be asked before an hour of predicting; nothing is changed.

    Args:
        server: the server.
        name: of the task.
        project: that the task is to be in; None for none.
        class_names: the model's, which become the labels of a task outside of a project.

    Raises:
        StepError: there is no such project, it has none of the classes as a label, or we may only read.
    """
    if server.reads_only():
        raise StepError(
            f"{server.host} lets this access token read only, and a task is to be made: make a token that may write"
        )
    if project is None:
        return NewTask(server, name, None, None, class_names)
    organization = server.get(f"/api/projects/{project}").get("organization")
    labels = matched(server, "project", project, class_names, "skip")
    return NewTask(server, name, project, organization, labels)


def open_task(task: NewTask, images: Mapping[str, Path]) -> int:
    """Make a task with images in their order, of which CVAT shows the first first.

    Args:
        task: what `plan` gave.
        images: files by name; a path's last part is what CVAT will call it, or all of it where two would be the same.

    Returns:
        The task's number.

    Raises:
        StepError: the server refuses, or cannot read the images. Nothing is left there.
        TemporaryError: the server cannot be reached, or fails.
    """
    server = task.server
    labels = [{"name": name, "attributes": []} for name in task.labels]
    body = {"name": task.name, **({"project_id": task.project} if task.project else {"labels": labels})}
    query = {"org_id": task.organization} if task.organization else {}
    number = server.send("POST", "/api/tasks", query, body)["id"]
    try:
        with _named(images) as files:
            request = _upload(server, number, files)
        finished(server, request, f"make task {number} of {len(files)} images")
    except BaseException:
        _remove(server, number)
        raise
    return int(number)


def pre_annotate(task: NewTask, number: int, detector: Detector, threshold: float | None) -> int:
    """Write predictions into a task that was just made; give how many rectangles.

    Raises:
        StepError: the server refuses. The task stays, with its images.
    """
    (part,) = parts(task.server, [Place(task.server.host, "task", number)], "any")
    return annotate(task.server, part, DetectorFunction(detector, threshold, task.labels), replace=False)


def _upload(server: Server, number: int, files: Sequence[Path]) -> str:
    """Send files, as many as fit into each request; give the request that makes frames of them."""
    with in_words(server, f"task {number}"):
        answer = DataUploader(server.client).upload_files(
            f"{server.host}/api/tasks/{number}/data/",
            list(files),
            image_quality=_QUALITY,
            sorting_method="predefined",
        )
    return str(json.loads(answer.data)["rq_id"])


@contextmanager
def _named(images: Mapping[str, Path]) -> Iterator[list[Path]]:
    """Files whose names, which are all that reaches CVAT of their paths, are all different.

    CVAT would append the bytes of one to the other.
    """
    short = [PurePosixPath(name).name for name in images]
    with tempfile.TemporaryDirectory(prefix="cvat-") as folder:
        files: dict[str, Path] = {}
        for name, last, path in zip(images, short, images.values(), strict=True):
            wanted = last if short.count(last) == 1 else name.replace("/", "_")
            while wanted in files:
                wanted = f"_{wanted}"
            # The SDK follows links, and then goes by the names that it finds.
            files[wanted] = path
            if path.resolve().name != wanted:
                files[wanted] = Path(shutil.copyfile(path, Path(folder) / wanted))
        yield list(files.values())


def _remove(server: Server, number: int) -> None:
    try:
        server.send("DELETE", f"/api/tasks/{number}", {})
    except StepError as error:
        log.warning("WARNING: task %d is left on %s without images: delete it there (%s)", number, server.host, error)
