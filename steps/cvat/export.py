"""Exports of tasks and jobs with their images, and what the server calls their frames and labels."""

import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote
from zlib import crc32

from steps.common.errors import StepError, TemporaryError
from steps.common.files import replacing, write_json
from steps.common.messages import printable
from steps.common.progress import progress
from steps.cvat.address import Place
from steps.cvat.server import SECONDS_BETWEEN_QUESTIONS, TRIES, Server

log = logging.getLogger(__name__)

FORMAT = "CVAT for images 1.1"
"""Keeps every shape with its rotation and attributes, and the names of frames, of which videos have images too."""


@dataclass(frozen=True)
class Part:
    """What is exported at once: a task, or one of its jobs."""

    kind: str
    """`task` or `job`."""
    id: int
    task: dict[str, Any]
    """As the API describes it."""
    jobs: Sequence[dict[str, Any]]
    """Those of the task that people annotate."""
    labels: dict[str, int]
    updated: str
    """When the server last changed it."""

    @property
    def folder(self) -> str:
        """Where it lies in the dataset's folder."""
        return f"{self.kind}_{self.id}"

    @property
    def version(self) -> tuple[int, str]:
        """Tells it from the same part at another time; as the journal of what was fetched has it."""
        return crc32(repr(sorted(self.labels.items())).encode()), self.updated


def parts(server: Server, places: Sequence[Place], state: str) -> list[Part]:
    """Find the tasks and jobs that places on a server name.

    A project is its tasks, so that frames of the same name stay apart, and what has not changed is not exported again.

    Raises:
        StepError: there is none with images in the wanted state, or the server refuses.
    """
    found: dict[tuple[str, int], Part] = {}
    for place in places:
        if place.kind == "project":
            server.get(f"/api/projects/{place.id}")
            tasks = sorted(server.pages("/api/tasks", project_id=place.id), key=lambda task: int(task["id"]))
            for task in tasks:
                if _has_images(task):
                    found |= {(part.kind, part.id): part for part in _of_task(server, task, state)}
                else:
                    log.warning("WARNING: task %s of %s has no images: it is left out", task["id"], place)
            continue
        job = server.get(f"/api/jobs/{place.id}") if place.kind == "job" else None
        if job and place.task not in (None, job["task_id"]):
            raise StepError(f"{place} does not exist: job {place.id} is of task {job['task_id']}")
        task = server.get(f"/api/tasks/{job['task_id'] if job else place.id}")
        if not _has_images(task):
            raise StepError(f"{place} has no images: give a task of images or of a video")
        of_task = _of_task(server, task, state)
        if job:
            if job.get("type", "annotation") != "annotation":
                raise StepError(f"{place} is a {job['type']} job: give one that people annotate")
            whole = next((part for part in of_task if part.kind == "task" or part.id == place.id), None)
            if whole is None:
                continue
            of_task = [Part("job", place.id, task, whole.jobs, whole.labels, job["updated_date"])]
        found |= {(part.kind, part.id): part for part in of_task}
    # A job beside its whole task would bring its frames twice.
    whole_tasks = {part.id for part in found.values() if part.kind == "task"}
    chosen = [part for part in found.values() if part.kind == "task" or part.task["id"] not in whole_tasks]
    if not chosen:
        where = ", ".join(map(str, places))
        raise StepError(
            f"{where} has no images in jobs that are {state}: finish some, or give another --state"
            if state != "any"
            else f"{where} has no images: give a task that has some"
        )
    return chosen


def _has_images(task: dict[str, Any]) -> bool:
    return bool(task.get("size")) and task.get("dimension", "2d") == "2d"


def _of_task(server: Server, task: dict[str, Any], state: str) -> list[Part]:
    """The task, or those of its jobs that are in the wanted state where not all are."""
    # Frames of ground truth jobs, and of replicas, are frames of these as well.
    jobs = [
        job for job in server.pages("/api/jobs", task_id=task["id"]) if job.get("type", "annotation") == "annotation"
    ]
    labels = {label["name"]: label["id"] for label in server.pages("/api/labels", task_id=task["id"])}
    wanted = [job for job in jobs if _in_state(job, state)]
    if len(wanted) == len(jobs):
        return [Part("task", task["id"], task, jobs, labels, task["updated_date"])]
    log.info("task %s: %d of %d jobs are %s", task["id"], len(wanted), len(jobs), state)
    if task.get("overlap") and len(wanted) > 1:
        log.warning("WARNING: jobs of task %s overlap: %s frames of neighbours come twice", task["id"], task["overlap"])
    return [Part("job", job["id"], task, jobs, labels, job["updated_date"]) for job in wanted]


def _in_state(job: dict[str, Any], state: str) -> bool:
    if state == "any":
        return True
    return job.get("state") == "completed" and (state == "completed" or job.get("stage") == "acceptance")


def export(server: Server, part: Part, target: Path) -> None:
    """Have a part exported, wait for it, and download the zip to `target`, whole or not at all.

    Raises:
        StepError: the export failed, or the server refuses.
    """
    what = f"{part.kind} {part.id}"
    # Locally, whatever storage the task's owner chose for exports: that is not ours to write to.
    query = {"format": FORMAT, "save_images": "true", "location": "local"}
    waited = False
    waits = _waits()
    while (answer := server.send("POST", f"/api/{part.kind}s/{part.id}/dataset/export", query, expected=409)) is None:
        # Of ours, cut off, or of the same user's in a browser; the next then takes from the server's cache.
        if not waited:
            log.info("%s is being exported already: waiting for that to end", what)
        waited = True
        time.sleep(next(waits))
    url = finished(server, answer["rq_id"], f"export {what}").get("result_url")
    if not url:
        raise StepError(f"{server.host} exported {what} and says no address of the result: try again")
    _download(server, str(url), what, target)


def _waits() -> Iterator[float]:
    wait, most = SECONDS_BETWEEN_QUESTIONS
    while True:
        yield wait
        wait = min(1.5 * wait, most)


def finished(server: Server, request: str, what: str) -> dict[str, Any]:
    """Wait for a request, and give what the server says of it in the end; `what` it does is for messages.

    Raises:
        StepError: it failed.
    """
    with progress(f"{server.host}: {what}", 100, unit="%") as advance:
        done = 0
        for wait in _waits():
            answer = server.get(f"/api/requests/{quote(request, safe='')}")
            if answer["status"] == "failed":
                said = printable(" ".join(str(answer.get("message") or "").split()[-40:]))
                raise StepError(f"{server.host} could not {what}: {said or 'it does not say why'}")
            if answer["status"] == "finished":
                return dict(answer)
            now = round(100 * float(answer.get("progress") or 0))
            advance(max(now - done, 0))
            done = max(now, done)
            time.sleep(wait)
    raise AssertionError


def _download(server: Server, url: str, what: str, target: Path) -> None:
    """Download, going on where a connection broke off if the server can."""
    from urllib3.exceptions import HTTPError

    path, query = server.local(url)
    with replacing(target) as unfinished:
        done = 0
        for attempt in range(1, TRIES + 1):
            response = server.open(path, query, whole=False, start=done)
            if response.status != 206:
                done = 0
            size = int(response.headers.get("Content-Length") or 0)
            try:
                with (
                    progress(f"fetching {what}", size) as advance,
                    unfinished.open("r+b" if done else "wb") as file,
                ):
                    file.seek(done)
                    for block in response.stream(1024 * 1024):
                        file.write(block)
                        done += len(block)
                        advance(len(block))
                return
            except HTTPError:
                if attempt == TRIES:
                    raise TemporaryError(f"{server.host} broke off while {what} was fetched: try again") from None
                log.info("%s broke off while %s was fetched: going on", server.host, what)
            finally:
                response.release_conn()


def frame_numbers(server: Server, part: Part, files: Sequence[str]) -> dict[str, int]:
    """Give the server's frame numbers of a part's images, by their paths below its folder.

    Images keep their names; a video's frames are named by their place in the video, of which the task may leave some
    out (`data/meta` of the API: `start_frame`, `frame_filter`).
    """
    meta = server.get(f"/api/tasks/{part.task['id']}/data/meta")
    names = {frame["name"]: number for number, frame in enumerate(meta.get("frames") or [])}
    start, step = int(meta.get("start_frame") or 0), int(str(meta.get("frame_filter") or "").partition("=")[2] or 1)
    is_video = part.task.get("mode") == "interpolation" and len(names) == 1
    found = {}
    for file in files:
        path = PurePosixPath(file)
        if path.parts[0] != "images":
            continue
        name = path.relative_to("images").as_posix()
        if is_video and path.stem.startswith("frame_") and path.stem[6:].isdigit():
            found[file] = (int(path.stem[6:]) - start) // step
        elif name in names:
            found[file] = names[name]
    return found


def write_ids(target: Path, server: Server, described: Sequence[tuple[Part, dict[str, int]]]) -> None:
    """Write what the server calls the parts, their labels and their frames, for `steps.cvat.links` and for people.

    Args:
        target: the file.
        server: the server.
        described: each part with its frames' numbers, by path below its folder.
    """
    content = {
        "server": server.host,
        "version": server.version,
        "parts": [
            {
                "folder": part.folder,
                "task": part.task["id"],
                "name": part.task.get("name", ""),
                "project": part.task.get("project_id"),
                "updated": part.updated,
                "labels": part.labels,
                "jobs": [
                    {"id": job["id"], "start": job["start_frame"], "stop": job["stop_frame"]}
                    for job in sorted(
                        part.jobs, key=lambda job: (part.kind == "job" and job["id"] != part.id, job["id"])
                    )
                ],
                "frames": frames,
            }
            for part, frames in described
        ],
    }
    write_json(target, content)
