"""A CVAT server on loopback that speaks as much of the API as we call, as 2.23 and 2.64 do.

It holds tasks with real images and annotations, which change as they are sent; exports are what a real server wrote
of a task where `../shared` has it, else zips of the same layout. It misbehaves when it is told to.
"""

from __future__ import annotations

import email
import io
import json
import re
import threading
import uuid
import zipfile
from base64 import b64decode
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit
from xml.sax.saxutils import quoteattr

from PIL import Image, ImageDraw

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data" / "cvat"
USER, PASSWORD, TOKEN, READ_ONLY_TOKEN = "anna", "pass word", "a-token", "a-read-only-token"
FORMAT = "CVAT for images 1.1"
PAGE = 2
"""Entries of a list that come at once, whatever is asked for: few, so that small lists have pages."""

_COLOURS = {"bolt": (220, 40, 40), "nut": (40, 60, 220)}
_WHOLE_TASK = 10**6


@dataclass
class Task:
    """A task: what the API says of it, and its frames."""

    id: int
    frames: dict[str, bytes]
    """Encoded images by name, in the order of the task."""
    labels: dict[str, int]
    name: str = "parts"
    project: int | None = None
    subset: str = ""
    mode: str = "annotation"
    annotations: dict[str, Any] = field(default_factory=lambda: {"version": 0, "tags": [], "shapes": [], "tracks": []})
    jobs: list[dict[str, Any]] = field(default_factory=list)
    """Numbers and frames of its jobs, and their `state` and `stage`."""
    updated: int = 0
    """How often it was changed."""
    zip: Path | None = None
    """What a real server exported."""
    meta: dict[str, Any] | None = None
    uploaded: dict[str, bytes] = field(default_factory=dict)
    """Files that came, of which no frames are made yet."""
    types: dict[str, str] = field(default_factory=dict)
    """Kinds of its labels, where not `any`."""

    @property
    def updated_date(self) -> str:
        return f"2026-11-24T21:{self.updated // 60:02}:{self.updated % 60:02}.617655Z"

    def rectangle(self, frame: int, label: str, points: list[float], source: str = "manual") -> None:
        """Draw a rectangle, as a person does."""
        self.add(
            {"frame": frame, "label_id": self.labels[label], "type": "rectangle", "points": points, "source": source}
        )

    def add(self, shape: Mapping[str, Any]) -> None:
        shapes = self.annotations["shapes"]
        given = {
            "rotation": 0.0,
            "occluded": False,
            "outside": False,
            "z_order": 0,
            "group": 0,
            "attributes": [],
            **shape,
        }
        shapes.append({**given, "elements": [], "id": 1 + max((each["id"] for each in shapes), default=0)})
        self.updated += 1

    def boxes(self) -> list[tuple[int, str, list[float], str]]:
        """Frame, label's name, points and source of each shape."""
        names = {number: name for name, number in self.labels.items()}
        return [
            (each["frame"], names[each["label_id"]], each["points"], each["source"])
            for each in self.annotations["shapes"]
        ]


def drawn_task(number: int = 42, images: int = 6, *, annotated: bool = True, **more: Any) -> Task:
    """A task with images of bolts and nuts, in two folders, each object with a rectangle."""
    task = Task(number, {}, {"nut": 4 + 10 * number, "bolt": 17 + 10 * number}, **more)
    for frame in range(images):
        picture = Image.new("RGB", (96, 64), (110, 20 * frame % 256, 120))
        objects = []
        for place, label in enumerate(("bolt", "nut")):
            box = [48 * place + 4 + frame % 8, 6 + frame % 8, 48 * place + 32 + frame % 8, 38 + frame % 8]
            ImageDraw.Draw(picture).rectangle(box, fill=_COLOURS[label])
            objects.append((label, [float(side) for side in (*box[:2], box[2] + 1, box[3] + 1)]))
        data = io.BytesIO()
        picture.save(data, "PNG")
        # In the order of the server, which need not be that of the names.
        task.frames[f"{'ba'[frame % 2]}/img {images - frame}.png"] = data.getvalue()
        if annotated:
            for label, points in objects:
                task.rectangle(frame, label, points)
    half = (images + 1) // 2
    task.jobs = [
        {"id": 10 * number, "start_frame": 0, "stop_frame": half - 1, "state": "completed", "stage": "acceptance"},
        {"id": 10 * number + 1, "start_frame": half, "stop_frame": images - 1, "state": "new", "stage": "annotation"},
    ]
    return task


def images(task: Task) -> list[Image.Image]:
    """The frames of a task, in its order."""
    return [Image.open(io.BytesIO(content)) for content in task.frames.values()]


def real_task(name: str, number: int = 42) -> Task | None:
    """A task of a real server; None where the machine has none."""
    folder = SHARED / name
    if not folder.is_dir():
        return None
    described, labels = (json.loads((folder / f"{each}.json").read_bytes()) for each in ("task", "labels"))
    export = folder / f"{FORMAT.replace(' ', '_')}.zip"
    meta = json.loads((folder / "meta.json").read_bytes())
    with zipfile.ZipFile(export) as zipped:
        files = {each.removeprefix("images/"): zipped.read(each) for each in zipped.namelist() if "images/" in each}
    frames = (
        files
        if described["mode"] == "interpolation"
        else {each["name"]: files[each["name"]] for each in meta["frames"]}
    )
    return Task(
        number,
        frames,
        {label["name"]: label["id"] for label in labels["results"]},
        name=described["name"],
        mode=described["mode"],
        annotations=json.loads((folder / "annotations.json").read_bytes()),
        jobs=[{"id": 10 * number, "start_frame": 0, "stop_frame": described["size"] - 1}],
        zip=export,
        meta=meta,
    )


@dataclass
class CvatDouble:
    """What the server holds, what it was asked, and how it misbehaves."""

    tasks: dict[int, Task] = field(default_factory=dict)
    version: str = "2.64.0"
    host: str = ""
    asked: list[tuple[str, str]] = field(default_factory=list)
    """Method and path of each request."""
    faults: list[tuple[str, int]] = field(default_factory=list)
    """Expressions of "METHOD path", and the status that the next such request gets."""
    looks: int = 1
    """How often a request says that it is under way before it has ended."""
    exports_fail: str = ""
    """What exports fail with after they were accepted."""
    data_fails: str = ""
    """What making frames of uploaded files fails with, likewise."""
    break_after: int = 0
    """Bytes after which the next download breaks off."""
    ranges: bool = True
    """Whether downloads can begin in the middle, as behind nginx."""
    organizations: dict[int, int] = field(default_factory=dict)
    """Of projects."""
    requests: dict[str, int] = field(default_factory=dict)
    uploads: dict[str, str] = field(default_factory=dict)
    """Names of files that come by TUS, by the upload's id."""
    lacks: str = ""
    """A field that the server does not know."""
    damage: bool = False
    """Whether the zips are cut short at the end, in a download that looks whole."""

    def count(self, method: str, pattern: str) -> int:
        """How many requests there were."""
        return sum(each == method and re.fullmatch(pattern, path) is not None for each, path in self.asked)

    def export(self, kind: str, number: int) -> bytes:
        """The zip of a task or a job."""
        task, start, stop = self.find(kind, number)
        if task.zip is not None and kind == "tasks":
            return task.zip.read_bytes()
        names = {number: name for name, number in task.labels.items()}
        lines = [
            "<annotations><version>1.1</version><meta>",
            f"<{kind[:-1]}><id>{number}</id><size>{len(task.frames)}</size><mode>{task.mode}</mode>",
            f"<subset>{task.subset or 'default'}</subset><start_frame>0</start_frame><labels>",
            *(f"<label><name>{name}</name></label>" for name in task.labels),
            f"</labels></{kind[:-1]}></meta>",
        ]
        data = io.BytesIO()
        with zipfile.ZipFile(data, "w") as zipped:
            for frame, (name, content) in enumerate(task.frames.items()):
                if not start <= frame <= stop:
                    continue
                zipped.writestr(f"images/{name}", content)
                width, height = Image.open(io.BytesIO(content)).size
                lines.append(f'<image id="{frame}" name={quoteattr(name)} width="{width}" height="{height}">')
                for shape in task.annotations["shapes"]:
                    if shape["frame"] == frame:
                        sides = zip(("xtl", "ytl", "xbr", "ybr"), shape["points"], strict=True)
                        edges = " ".join(f'{edge}="{value:.2f}"' for edge, value in sides)
                        lines.append(f'<box label={quoteattr(names[shape["label_id"]])} occluded="0" {edges}/>')
                lines.append("</image>")
            zipped.writestr("annotations.xml", "\n".join([*lines, "</annotations>"]))
        return data.getvalue()

    def find(self, kind: str, number: int) -> tuple[Task, int, int]:
        """The task, and the first and last frame, of a task or a job."""
        if kind == "tasks":
            return self.tasks[number], 0, _WHOLE_TASK
        for task in self.tasks.values():
            for job in task.jobs:
                if job["id"] == number:
                    return task, job["start_frame"], job["stop_frame"]
        raise KeyError(number)

    def describe_task(self, task: Task) -> dict[str, Any]:
        return {
            "url": f"{self.host}/api/tasks/{task.id}", "id": task.id, "name": task.name, "project_id": task.project,
            "mode": task.mode, "owner": self._user(), "assignee": None, "bug_tracker": "",
            "created_date": "2026-11-24T21:00:00.887606Z", "updated_date": task.updated_date, "overlap": 0,
            "segment_size": 100, "status": "annotation", "data_chunk_size": 4,
            "data_compressed_chunk_type": "imageset", "guide_id": None,
            "data_original_chunk_type": "video" if task.mode == "interpolation" else "imageset",
            "size": len(task.frames), "image_quality": 90, "data": task.id, "dimension": "2d", "subset": task.subset,
            "organization": None, "target_storage": None, "source_storage": None,
            "jobs": {"count": len(task.jobs), "completed": 0, "validation": 0, "url": f"{self.host}/api/jobs"},
            "labels": {"url": f"{self.host}/api/labels?task_id={task.id}"}, "assignee_updated_date": None,
            "validation_mode": None,
        }  # fmt: skip

    def describe_job(self, task: Task, job: Mapping[str, Any]) -> dict[str, Any]:
        return {
            "url": f"{self.host}/api/jobs/{job['id']}", "id": job["id"], "task_id": task.id,
            "project_id": task.project, "assignee": None, "guide_id": None, "dimension": "2d", "bug_tracker": "",
            "status": "annotation", "stage": "annotation", "state": "new", "mode": task.mode, "type": "annotation",
            "frame_count": job["stop_frame"] - job["start_frame"] + 1, "data_chunk_size": 4,
            "data_compressed_chunk_type": "imageset", "created_date": "2026-11-24T21:00:00.887606Z",
            "updated_date": task.updated_date, "issues": {"url": f"{self.host}/api/issues", "count": 0},
            "labels": {"url": f"{self.host}/api/labels"}, "organization": None, "target_storage": None,
            "source_storage": None, "assignee_updated_date": None, "parent_job_id": None, **job,
        }  # fmt: skip

    def describe_project(self, number: int) -> dict[str, Any]:
        organization = self.organizations.get(number)
        return {
            "url": f"{self.host}/api/projects/{number}", "id": number, "name": "project", "owner": self._user(),
            "assignee": None, "bug_tracker": "", "task_subsets": [], "created_date": "2026-11-24T21:00:00.887606Z",
            "updated_date": "2026-11-24T21:00:00.887606Z", "status": "annotation", "dimension": "2d",
            "organization": organization, "target_storage": None, "source_storage": None, "guide_id": None,
            "tasks": {"count": 1, "url": f"{self.host}/api/tasks"}, "labels": {"url": f"{self.host}/api/labels"},
        }  # fmt: skip

    def describe_label(self, task: Task, name: str) -> dict[str, Any]:
        return {
            "id": task.labels[name], "name": name, "color": "#dcbe65", "attributes": [],
            "type": task.types.get(name, "any"), "sublabels": [], "task_id": task.id, "parent_id": None,
            "has_parent": False,
        }  # fmt: skip

    def describe_data(self, task: Task) -> dict[str, Any]:
        if task.meta is not None:
            return task.meta
        frames = []
        for name, content in task.frames.items():
            width, height = Image.open(io.BytesIO(content)).size
            frames.append(
                {"width": width, "height": height, "name": name, "related_files": 0, "has_related_context": False}
            )
        return {
            "chunks_updated_date": "2026-11-24T21:00:00.887606Z", "chunk_size": 4, "size": len(frames),
            "image_quality": 90, "start_frame": 0, "stop_frame": len(frames) - 1, "frame_filter": "",
            "frames": frames, "deleted_frames": [], "included_frames": None,
        }  # fmt: skip

    def _user(self) -> dict[str, Any]:
        return {"url": f"{self.host}/api/users/1", "id": 1, "username": USER, "first_name": "", "last_name": ""}


@contextmanager
def cvat_double(*tasks: Task, **what: Any) -> Iterator[CvatDouble]:
    """Start a server that holds `tasks`."""
    double = CvatDouble({task.id: task for task in tasks}, **what)

    class Handler(_Handler):
        cvat = double

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    double.host = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield double
    finally:
        server.shutdown()
        server.server_close()


class _RefusedError(Exception):
    def __init__(self, status: int, answer: Any = None) -> None:
        super().__init__(status)
        self.status, self.answer = status, answer if answer is not None else {"detail": "No."}


class _Handler(BaseHTTPRequestHandler):
    cvat: CvatDouble
    protocol_version = "HTTP/1.1"
    # Head and body at once: else each answer waits for a delayed acknowledgement.
    disable_nagle_algorithm = True
    wbufsize = 65536

    def log_message(self, *arguments: Any) -> None: ...

    def do_GET(self) -> None:
        self._answer("GET")

    def do_POST(self) -> None:
        self._answer("POST")

    def do_PATCH(self) -> None:
        self._answer("PATCH")

    def do_DELETE(self) -> None:
        self._answer("DELETE")

    def do_HEAD(self) -> None:
        self._answer("HEAD")

    def do_PUT(self) -> None:
        self._answer("PUT")

    def _answer(self, method: str) -> None:
        parts = urlsplit(self.path)
        path = parts.path.rstrip("/")
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.cvat.asked.append((method, path))
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        try:
            for fault in self.cvat.faults:
                if re.fullmatch(fault[0], f"{method} {path}"):
                    self.cvat.faults.remove(fault)
                    raise _RefusedError(fault[1], {"detail": f"It is {fault[1]} now."})
            is_json = self.headers.get("Content-Type", "").startswith("application/json")
            self._route(method, path, query, json.loads(body) if body and is_json else body or None)
        except _RefusedError as refusal:
            self._send(refusal.status, refusal.answer)
        except KeyError:
            self._send(404, {"detail": "Not found."})

    def _send(self, status: int, answer: Any, headers: Mapping[str, str] | None = None) -> None:
        content = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", **(headers or {})}.items():
            for each in value.split("\n"):
                self.send_header(name, each)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _route(self, method: str, path: str, query: Mapping[str, str], body: Any) -> None:
        cvat = self.cvat
        if path == "/api/server/about":
            about = {"name": "CVAT", "description": "", "version": cvat.version}
            # 2.23 has no more than these.
            return self._send(200, about if cvat.version < "2.3" else {**about, "logo_url": "", "subtitle": ""})
        if path == "/api/auth/login":
            if (body["username"], body["password"]) != (USER, PASSWORD):
                raise _RefusedError(400, {"non_field_errors": ["Unable to log in with provided credentials."]})
            return self._send(200, {"key": "k"}, {"Set-Cookie": "sessionid=s; Path=/\ncsrftoken=c; Path=/"})
        self._authenticate(method)
        if path == "/api/users/self":
            return self._send(200, {**cvat._user(), "email": "anna@example.com"})
        if found := re.fullmatch(r"/api/requests/(.+)", path):
            return self._send(200, self._request(found[1]))
        if path == "/api/auth/access_tokens/self":
            if not self.headers.get("Authorization", "").startswith("Bearer "):
                raise KeyError
            read_only = self.headers["Authorization"] == f"Bearer {READ_ONLY_TOKEN}"
            return self._send(200, {"id": 1, "name": "token", "read_only": read_only, "owner": cvat._user()})
        if (method, path) == ("POST", "/api/tasks"):
            return self._create(body, query)
        if path == "/api/tasks":
            tasks = [task for task in cvat.tasks.values() if str(task.project) == query["project_id"]]
            return self._page([cvat.describe_task(task) for task in tasks], query)
        if path in ("/api/jobs", "/api/labels"):
            inside = [task for task in cvat.tasks.values() if str(task.project) == query.get("project_id")]
            task = inside[0] if inside else cvat.tasks[int(query["task_id"])]
            jobs = [cvat.describe_job(task, job) for job in task.jobs]
            labels = [cvat.describe_label(task, name) for name in task.labels]
            return self._page(jobs if path == "/api/jobs" else labels, query)
        if found := re.fullmatch(r"/api/projects/(\d+)", path):
            if int(found[1]) not in {task.project for task in cvat.tasks.values()}:
                raise KeyError
            return self._send(200, cvat.describe_project(int(found[1])))
        if found := re.fullmatch(r"/api/tasks/(\d+)/data/([-0-9a-f]{36})", path):
            return self._append(method, cvat.tasks[int(found[1])], found[2], body)
        found = re.fullmatch(r"/api/(tasks|jobs)/(\d+)(/.*)?", path)
        if not found:
            raise KeyError(path)
        kind, number, rest = found[1], int(found[2]), found[3] or ""
        task, start, stop = cvat.find(kind, number)
        match method, rest:
            case "GET", "":
                job = next((job for job in task.jobs if kind == "jobs" and job["id"] == number), None)
                described = cvat.describe_job(task, job) if job else cvat.describe_task(task)
                return self._send(200, {name: value for name, value in described.items() if name != cvat.lacks})
            case "DELETE", "" if kind == "tasks":
                del cvat.tasks[number]
                return self._send(204, b"")
            case "POST", "/data":
                return self._upload(task, body)
            case "GET", "/data/meta":
                if not task.frames:
                    raise _RefusedError(500)
                return self._send(200, cvat.describe_data(task))
            case "GET", "/data":
                return self._send(*self._data(task, query), {"Content-Type": "application/octet-stream"})
            case "POST", "/dataset/export":
                return self._export(kind, number, query)
            case "GET", "/dataset" | "/annotations" if "format" in query:
                raise _RefusedError(410, {"detail": "This endpoint is no longer supported."})
            case "GET", "/dataset/download":
                return self._download(kind, number)
            case _, "/annotations":
                return self._annotations(method, task, query, body, range(start, stop + 1))
        raise KeyError(path)

    def _authenticate(self, method: str) -> None:
        given = self.headers.get("Authorization", "")
        if given.startswith("Bearer "):
            if given not in (f"Bearer {TOKEN}", f"Bearer {READ_ONLY_TOKEN}"):
                raise _RefusedError(401, {"detail": "Invalid token."})
            writes = method in ("PATCH", "PUT", "DELETE") or (method == "POST" and not self.path.count("/export"))
            if given != f"Bearer {TOKEN}" and writes:
                raise _RefusedError(403, {"detail": "You do not have permission to perform this action."})
            return
        if "sessionid=s" not in self.headers.get("Cookie", ""):
            raise _RefusedError(401, {"detail": "Authentication credentials were not provided."})
        if method != "GET" and self.headers.get("X-CSRFToken") != "c" and given != "Token k":
            raise _RefusedError(403, {"detail": "CSRF Failed: CSRF token missing."})

    def _page(self, entries: list[Any], query: Mapping[str, str]) -> None:
        page = int(query.get("page", "1"))
        more = f"{self.cvat.host}/api?page={page + 1}" if page * PAGE < len(entries) else None
        shown = entries[(page - 1) * PAGE : page * PAGE]
        self._send(200, {"count": len(entries), "next": more, "previous": None, "results": shown})

    def _create(self, body: Any, query: Mapping[str, str]) -> None:
        cvat = self.cvat
        inside = [task for task in cvat.tasks.values() if task.project == body.get("project_id")]
        number = 1 + max(cvat.tasks, default=100)
        if body.get("project_id") is None:
            names = [label["name"] for label in body["labels"]]
            if len(set(names)) < len(names) or not all(0 < len(name) <= 64 for name in names):
                raise _RefusedError(400, {"labels": ["Ensure label names are unique and have 64 characters at most."]})
            labels = {name: 10 * number + place for place, name in enumerate(names)}
        elif "labels" in body or not inside:
            raise _RefusedError(400, ["Task must have only one of Label set or project_id"])
        elif str(cvat.organizations.get(body["project_id"])) != query.get("org_id", "None"):
            raise _RefusedError(400, ["The task and its project should be in the same organization."])
        else:
            labels = inside[0].labels
        task = Task(number, {}, labels, name=body["name"], project=body.get("project_id"))
        cvat.tasks[number] = task
        self._send(201, cvat.describe_task(task))

    def _upload(self, task: Task, body: Any) -> None:
        """One of the messages that an upload is made of: start, several files, the begin of one by TUS, finish."""
        if task.frames:
            raise _RefusedError(400, "Adding more data is not supported")
        if "Upload-Finish" in self.headers:
            order = body["upload_file_order"] if body["sorting_method"] == "predefined" else sorted(task.uploaded)
            if sorted(order) != sorted(task.uploaded):
                raise _RefusedError(400, {"upload_file_order": ["Some files are not among the uploaded ones"]})
            assert 0 < body["image_quality"] <= 100
            name = f"action=create&target=task&target_id={task.id}&user=1"
            self.cvat.requests[name] = self.cvat.looks
            if not self.cvat.data_fails:
                task.frames = {file: task.uploaded[file] for file in order}
                task.jobs = [{"id": 10 * task.id, "start_frame": 0, "stop_frame": len(order) - 1}]
            self._send(202, {"rq_id": name})
        elif "Upload-Start" in self.headers:
            self._send(202, b"")
        elif "Upload-Multiple" in self.headers:
            head = f"Content-Type: {self.headers['Content-Type']}\r\n\r\n".encode()
            for part in email.message_from_bytes(head + body).get_payload():  # type: ignore[union-attr]
                if file := part.get_filename():  # type: ignore[union-attr]
                    # Django keeps the last part of a path, and CVAT appends to a file that is there.
                    self._take(task, file.rpartition("/")[2], part.get_payload(decode=True))  # type: ignore
            self._send(200, b"")
        else:
            given = dict(each.split(" ") for each in self.headers["Upload-Metadata"].split(","))
            file, upload = b64decode(given["filename"]).decode(), str(uuid.uuid4())
            self.cvat.uploads[upload] = file
            self._take(task, file, b"")
            where = f"{self.cvat.host}/api/tasks/{task.id}/data/{upload}"
            self._send(201, b"", {"Location": where, "Upload-Filename": file})

    def _append(self, method: str, task: Task, upload: str, body: Any) -> None:
        file = self.cvat.uploads[upload]
        if method == "PATCH":
            if int(self.headers["Upload-Offset"]) != len(task.uploaded[file]):
                raise _RefusedError(409)
            self._take(task, file, body)
        self._send(204, b"", {"Upload-Offset": str(len(task.uploaded[file])), "Upload-Filename": file})

    def _take(self, task: Task, file: str, content: bytes) -> None:
        task.uploaded[file] = task.uploaded.get(file, b"") + content

    def _export(self, kind: str, number: int, query: Mapping[str, str]) -> None:
        if query.get("format") != FORMAT:
            raise _RefusedError(400, [f"Unknown format specified for the request: {query.get('format')}"])
        assert query["save_images"].lower() == "true"
        assert query["location"] == "local"
        name = f"action=export&target={kind[:-1]}&target_id={number}&user=1"
        if self.cvat.requests.get(name, 0) > 0:
            # A question on the way to the end, so that those who only wait here see one.
            self.cvat.requests[name] -= 1
            raise _RefusedError(409, "Request is being processed")
        self.cvat.requests[name] = self.cvat.looks
        self._send(202, {"rq_id": name})

    def _request(self, quoted: str) -> dict[str, Any]:
        name = unquote(quoted)
        left = self.cvat.requests[name]
        self.cvat.requests[name] = max(left - 1, 0)
        kind, number = re.search(r"target=(\w+)&target_id=(\d+)", name).groups()  # type: ignore[union-attr]
        task, _, _ = self.cvat.find(f"{kind}s", int(number))
        creates = name.startswith("action=create")
        fails = self.cvat.data_fails if creates else self.cvat.exports_fail
        failure = fails or ("The task has no data" if not task.frames else "")
        ended = "failed" if failure else "finished"
        # A name of its own that nobody else knows, as behind a proxy.
        result = f"http://cvat-server:8080/api/{kind}s/{number}/dataset/download?rq_id={quote(name)}"
        return {
            "id": name, "status": "started" if left else ended, "message": failure if not left else "",
            "progress": None if left else 1.0,
            "operation": {
                "type": "create:task" if creates else "export:dataset", "target": kind, "task_id": task.id,
                "format": FORMAT,
            },
            "created_date": "2026-11-24T21:00:00.887606Z", "owner": self.cvat._user(),
            "result_url": None if left or failure or creates else result,
        }  # fmt: skip

    def _download(self, kind: str, number: int) -> None:
        content = self.cvat.export(kind, number)
        if self.cvat.damage:
            content = content[: -len(content) // 3]
        start, status = 0, 200
        if self.cvat.ranges and (found := re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))):
            start, status = int(found[1]), 206
        self.send_response(status)
        self.send_header("Content-Type", "application/zip")
        self.send_header("Content-Length", str(len(content) - start))
        if status == 206:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        stop, self.cvat.break_after = self.cvat.break_after, 0
        self.wfile.write(content[start : start + stop] if stop else content[start:])
        if stop:
            self.wfile.flush()
            self.close_connection = True
            self.connection.shutdown(2)

    def _data(self, task: Task, query: Mapping[str, str]) -> tuple[int, bytes]:
        assert query["quality"] == "original"
        number, images = int(query["number"]), list(task.frames.values())
        if query["type"] == "frame":
            return 200, images[number]
        data = io.BytesIO()
        with zipfile.ZipFile(data, "w") as zipped:
            for place, content in enumerate(images[4 * number : 4 * number + 4]):
                zipped.writestr(f"{place:06}.png", content)
        return 200, data.getvalue()

    def _annotations(self, method: str, task: Task, query: Mapping[str, str], body: Any, frames: range) -> None:
        if not task.frames:
            raise _RefusedError(400, ["The task is empty"])
        for shape in body["shapes"] if body else ():
            # What Django's serializers check.
            if shape["label_id"] not in task.labels.values() or not 0 <= shape["frame"] < len(task.frames):
                raise _RefusedError(400, {"shapes": ["Invalid label_id or frame"]})
            if not all(isinstance(side, float | int) and abs(side) < 1e9 for side in shape["points"]):
                raise _RefusedError(400, {"shapes": [{"points": ["A valid number is required."]}]})
        match method, query.get("action"):
            case "PATCH", "create":
                for shape in body["shapes"]:
                    task.add(shape)
            case "PATCH", "delete":
                gone = {shape["id"] for shape in body["shapes"]}
                task.annotations["shapes"] = [each for each in task.annotations["shapes"] if each["id"] not in gone]
                task.updated += 1
            case "PUT", None:
                task.annotations["shapes"] = []
                for shape in body["shapes"]:
                    task.add(shape)
        shapes = [shape for shape in task.annotations["shapes"] if shape["frame"] in frames]
        self._send(200, {**task.annotations, "shapes": shapes})
