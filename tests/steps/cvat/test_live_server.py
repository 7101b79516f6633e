"""A real CVAT server: CVAT_HOST, with who we are there in the variables that `fetch` reads.

CVAT_TASK names a task to export as well, of whatever kind; nothing of it is changed.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import requests

from steps.annotate import annotate_tasks
from steps.cvat.links import frame_links
from steps.cvat.server import Server
from steps.fetch import fetch_dump
from steps.predict import predict_images
from steps.prepare import prepare_data
from tests.cvat_double import Task, drawn_task
from tests.steps.cvat.test_export import boxes

pytestmark = [
    pytest.mark.cvat,
    pytest.mark.skipif("CVAT_HOST" not in os.environ, reason="CVAT_HOST names no CVAT server"),
]
HOST = os.environ.get("CVAT_HOST", "").rstrip("/")


@pytest.fixture
def server() -> Iterator[Server]:
    with Server(HOST) as server:
        yield server


@pytest.fixture
def number() -> Iterator[int]:
    """A task of six images, made for the test and removed after it; not by the SDK, which may be of another version."""
    with requests.Session() as session:
        if token := os.environ.get("CVAT_ACCESS_TOKEN"):
            session.headers["Authorization"] = f"Bearer {token}"
        else:
            session.auth = (os.environ["CVAT_USERNAME"], os.environ["CVAT_PASSWORD"])

        def ask(method: str, path: str, **more: Any) -> Any:
            answer = session.request(method, f"{HOST}/api/{path}", timeout=60, **more)
            assert answer.ok, answer.text
            return answer.json() if answer.content else None

        labels = [{"name": name, "attributes": []} for name in ("nut", "bolt")]
        number = ask("POST", "tasks", json={"name": "cvat-detr test", "labels": labels})["id"]
        try:
            files = {
                f"client_files[{place}]": (f"image {place}.png", content, "image/png")
                for place, content in enumerate(drawn_task().frames.values())
            }
            made = ask("POST", f"tasks/{number}/data", data={"image_quality": 90}, files=files)
            for _ in range(120):
                state = ask("GET", f"requests/{quote(made['rq_id'], safe='')}")
                if state["status"] in ("finished", "failed"):
                    break
                time.sleep(1)
            assert state["status"] == "finished", state
            yield number
        finally:
            ask("DELETE", f"tasks/{number}")


def test_boxes_go_in_and_come_out_and_predictions_go_in_once(
    server: Server, number: int, run: Path, tmp_path: Path
) -> None:
    labels = {label["name"]: label["id"] for label in server.pages("/api/labels", task_id=number)}
    (job,) = server.pages("/api/jobs", task_id=number)
    drawn = Task(number, {}, labels)
    for frame, label, points, _ in drawn_task(images=4).boxes():
        drawn.rectangle(frame, label, points)
    shapes = [{name: value for name, value in each.items() if name != "id"} for each in drawn.annotations["shapes"]]
    server.send("PATCH", f"/api/tasks/{number}/annotations/", {"action": "create"}, {"shapes": shapes})

    address = f"{HOST}/tasks/{number}"
    fetch_dump(address, tmp_path / "data")
    prepare_data(tmp_path / "data")
    assert boxes(tmp_path / "data") == sorted(
        (f"{address}/jobs/{job['id']}?frame={frame}", label, points) for frame, label, points, _ in drawn.boxes()
    )

    (written,) = annotate_tasks(str(run), address, threshold=0).values()
    assert written > 0
    there = server.get(f"/api/tasks/{number}/annotations")["shapes"]
    assert len(there) == written + len(shapes)
    assert {shape["frame"] for shape in there if shape["source"] == "auto"} == {4, 5}
    assert set(annotate_tasks(str(run), address, threshold=0).values()) == {0}
    assert server.get(f"/api/tasks/{number}/annotations")["shapes"] == there
    annotate_tasks(str(run), address, threshold=0, replace=True)
    assert len(server.get(f"/api/tasks/{number}/annotations")["shapes"]) == len(there)


def test_a_task_of_the_images_to_annotate_next(
    server: Server, run: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "photos"
    for name, content in drawn_task().frames.items():
        # Of one name in two folders, which is all that CVAT is told of a path.
        (folder / Path(name).parent).mkdir(parents=True, exist_ok=True)
        (folder / Path(name).parent / f"{(int(name[-5]) + 1) // 2}.png").write_bytes(content)
    caplog.set_level("INFO")
    predict_images(str(run), str(folder), tmp_path, 0, "csv", next=4, open_task=HOST, with_predictions=True)
    number = int(caplog.messages[-1].rpartition("/")[2])
    try:
        chosen = (tmp_path / "next.txt").read_text().splitlines()
        frames = [frame["name"] for frame in server.get(f"/api/tasks/{number}/data/meta")["frames"]]
        last = [Path(name).name for name in chosen]
        assert frames == [
            short if last.count(short) == 1 else name.replace("/", "_")
            for name, short in zip(chosen, last, strict=True)
        ]
        for frame, name in enumerate(chosen):
            query = {"type": "frame", "number": frame, "quality": "original"}
            assert server.open(f"/api/tasks/{number}/data", query, whole=True).data == (folder / name).read_bytes()
        assert {label["name"] for label in server.pages("/api/labels", task_id=number)} == {"nut", "bolt"}
        shapes = server.get(f"/api/tasks/{number}/annotations")["shapes"]
        assert {shape["frame"] for shape in shapes} == {0, 1, 2, 3}
    finally:
        server.send("DELETE", f"/api/tasks/{number}", {})


@pytest.mark.skipif("CVAT_TASK" not in os.environ, reason="CVAT_TASK names no task")
def test_a_task_comes_with_all_its_frames(server: Server, tmp_path: Path) -> None:
    task = os.environ["CVAT_TASK"]
    size = server.get(f"/api/tasks/{task}")["size"]
    deleted = server.get(f"/api/tasks/{task}/data/meta")["deleted_frames"]
    fetch_dump(f"{HOST}/tasks/{task}", tmp_path)
    found = {int(link.rpartition("=")[2]) for link in frame_links(tmp_path).values()}
    assert found == set(range(size)) - set(deleted)
