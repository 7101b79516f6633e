"""Tasks out of a CVAT server, through the real SDK."""

from __future__ import annotations

import json
import re
import ssl
import sys
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import trustme

from steps.common.errors import TemporaryError
from steps.cvat.links import frame_links
from steps.fetch import fetch_dump
from steps.prepare import prepare_data
from tests.cvat_double import READ_ONLY_TOKEN, TOKEN, CvatDouble, Task, drawn_task, real_task
from tests.steps.dump.folders import tree
from tests.steps.refusals import refused

Start = Callable[..., CvatDouble]
EXPORT = r"/api/(tasks|jobs)/\d+/dataset/export"


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "dataset"


def boxes(dataset_dir: Path) -> list[tuple[str, str, list[float]]]:
    """Frame's address, label and box of all that was prepared."""
    links = frame_links(dataset_dir)
    found = []
    for split in ("train", "val"):
        coco = json.loads((dataset_dir / "annotations" / f"instances_{split}.json").read_bytes())
        files = {image["id"]: links[Path(image["file_name"])] for image in coco["images"]}
        names = {category["id"]: category["name"] for category in coco["categories"]}
        for each in coco["annotations"]:
            x, y, width, height = each["bbox"]
            found.append((files[each["image_id"]], names[each["category_id"]], [x, y, x + width, y + height]))
    return sorted(found)


def expected(host: str, task: Task) -> list[tuple[str, str, list[float]]]:
    def job(frame: int) -> int:
        return next(job["id"] for job in task.jobs if job["start_frame"] <= frame <= job["stop_frame"])

    return sorted(
        (f"{host}/tasks/{task.id}/jobs/{job(frame)}?frame={frame}", label, points)
        for frame, label, points, _ in task.boxes()
    )


def test_a_task_comes_with_its_frames_and_boxes_and_the_way_back(cvat: Start, out: Path) -> None:
    task = drawn_task()
    server = cvat(task)
    fetch_dump(f"{server.host}/tasks/42", out)
    prepare_data(out)
    assert boxes(out) == expected(server.host, task)
    (part,) = json.loads((out / "cvat.json").read_bytes())["parts"]
    assert part["labels"] == task.labels
    assert part["frames"] == {f"images/{name}": frame for frame, name in enumerate(task.frames)}


@pytest.mark.parametrize("name", ["shapes", "video", "seq", "num0", "nat_sorted"])
def test_what_a_real_server_exported_comes_with_its_frames(name: str, cvat: Start, out: Path) -> None:
    task = real_task(name)
    if task is None:
        pytest.skip("the real exports are not here: ../shared/data/cvat")
    server = cvat(task)
    fetch_dump(f"{server.host}/tasks/42", out)
    report = prepare_data(out)
    assert report["images"]["train"] + report["images"]["val"] == len(task.frames)
    (part,) = json.loads((out / "cvat.json").read_bytes())["parts"]
    assert sorted(part["frames"].values()) == list(range(len(task.frames)))
    if name != "video":
        assert part["frames"] == {f"images/{file}": frame for frame, file in enumerate(task.frames)}


def test_frames_of_a_video_are_numbered_by_what_the_task_takes_of_it(cvat: Start, out: Path) -> None:
    task = drawn_task(images=3, mode="interpolation")
    task.frames = {
        f"frame_0000{10 + 5 * int(place)}.PNG": content
        for place, content in zip("012", task.frames.values(), strict=True)
    }
    task.meta = {"frames": [{"name": "clip.mp4"}], "start_frame": 10, "frame_filter": "step=5"}
    server = cvat(task)
    fetch_dump(f"{server.host}/tasks/42", out)
    (part,) = json.loads((out / "cvat.json").read_bytes())["parts"]
    assert list(part["frames"].values()) == [0, 1, 2]


def test_a_project_is_all_its_tasks_with_frames_of_the_same_name(cvat: Start, out: Path) -> None:
    """More than come on a page of a list, and more than there are XML files in other dumps."""
    tasks = [drawn_task(number, 1, project=7) for number in range(1, 23)]
    server = cvat(*tasks, drawn_task(50), Task(51, {}, {}, project=7))
    fetch_dump(f"{server.host}/projects/7", out)
    report = prepare_data(out)
    assert report["images"]["train"] + report["images"]["val"] == 22
    assert boxes(out) == sorted(box for task in tasks for box in expected(server.host, task))


def test_a_tasks_subset_is_its_part_in_the_training(cvat: Start, out: Path) -> None:
    train, val = drawn_task(1, project=7, subset="Train"), drawn_task(2, 4, project=7, subset="Validation")
    server = cvat(train, val)
    fetch_dump(f"{server.host}/projects/7", out)
    report = prepare_data(out)
    assert (report["images"]["train"], report["images"]["val"]) == (6, 4)


@pytest.mark.parametrize(
    ("states", "state", "frames"),
    [
        ([("completed", "annotation"), ("in progress", "annotation")], "completed", [0, 1, 2]),
        ([("completed", "annotation"), ("completed", "acceptance")], "accepted", [3, 4, 5]),
        ([("completed", "annotation"), ("completed", "acceptance")], "completed", [0, 1, 2, 3, 4, 5]),
        ([("new", "annotation"), ("new", "annotation")], "any", [0, 1, 2, 3, 4, 5]),
    ],
)
def test_only_jobs_in_the_wanted_state_come(
    states: list[tuple[str, str]], state: str, frames: list[int], cvat: Start, out: Path
) -> None:
    task = drawn_task()
    for job, (done, stage) in zip(task.jobs, states, strict=True):
        job |= {"state": done, "stage": stage}
    task.jobs.append({"id": 999, "start_frame": 0, "stop_frame": 5, "type": "ground_truth"})
    server = cvat(task)
    fetch_dump(f"{server.host}/tasks/42", out, state=state)
    assert sorted(int(link.rpartition("=")[2]) for link in frame_links(out).values()) == frames


def test_no_job_in_the_wanted_state_is_said(cvat: Start, out: Path) -> None:
    server = cvat(drawn_task(7))
    server.tasks[7].jobs[0]["stage"] = "annotation"
    with refused("--state is 'done': give one of any, completed, accepted"):
        fetch_dump(f"{server.host}/tasks/7", out, state="done")
    with refused(f"{server.host}/tasks/7 has no images in jobs that are accepted", "--state"):
        fetch_dump(f"{server.host}/tasks/7", out, state="accepted")


def test_jobs_come_by_their_own_addresses(cvat: Start, out: Path) -> None:
    server = cvat(drawn_task(), drawn_task(43))
    fetch_dump(f"{server.host}/tasks/42/jobs/421,{server.host}/tasks/43,{server.host}/tasks/43/jobs/430", out)
    numbers = sorted(link.removeprefix(f"{server.host}/tasks/") for link in frame_links(out).values())
    assert numbers == [
        *(f"42/jobs/421?frame={frame}" for frame in (3, 4, 5)),
        *(f"43/jobs/430?frame={frame}" for frame in (0, 1, 2)),
        *(f"43/jobs/431?frame={frame}" for frame in (3, 4, 5)),
    ]
    server.tasks[42].jobs.append({"id": 999, "start_frame": 0, "stop_frame": 5, "type": "ground_truth"})
    with refused("/jobs/999 is a ground_truth job"):
        fetch_dump(f"{server.host}/jobs/999", out)
    with refused("42/jobs/430 does not exist", "task 43"):
        fetch_dump(f"{server.host}/tasks/42/jobs/430", out)


def test_only_what_changed_is_exported_again(cvat: Start, out: Path) -> None:
    server = cvat(drawn_task(1), drawn_task(2))
    both = f"{server.host}/tasks/1,2"
    fetch_dump(both, out)
    first = tree(out / "task_1")
    fetch_dump(both, out)
    assert server.count("POST", EXPORT) == 2
    server.tasks[2].rectangle(0, "bolt", [1.0, 1.0, 9.0, 9.0])
    fetch_dump(both, out)
    assert server.count("POST", "/api/tasks/2/dataset/export") == 2
    assert server.count("POST", EXPORT) == 3
    assert tree(out / "task_1") == first
    prepare_data(out)
    assert boxes(out) == sorted(box for task in server.tasks.values() for box in expected(server.host, task))


def test_another_dump_takes_the_place_of_an_earlier_one(
    cvat: Start, out: Path, tmp_path: Path, coco_dump: Callable[..., Path]
) -> None:
    server = cvat(drawn_task(1), drawn_task(2))
    fetch_dump(f"{server.host}/tasks/1,2", out)
    fetch_dump(f"{server.host}/tasks/2", out)
    assert not (out / "task_1" / "annotations.xml").exists()
    assert {Path(path).parts[len(out.parts)] for path in frame_links(out)} == {"task_2"}
    coco_dump(tmp_path / "dump", images=3)
    fetch_dump(str(tmp_path / "dump"), out)
    assert frame_links(out) == {}
    assert prepare_data(out)["images"]["train"] < 4


def test_what_came_before_a_failure_is_not_fetched_again(cvat: Start, out: Path) -> None:
    server = cvat(drawn_task(1), drawn_task(2), faults=[("POST /api/tasks/2/dataset/export", 500)])
    with refused(server.host, "fails (500)", "It is 500 now"):
        fetch_dump(f"{server.host}/tasks/1,2", out)
    fetch_dump(f"{server.host}/tasks/1,2", out)
    assert server.count("POST", "/api/tasks/1/dataset/export") == 1
    assert len(frame_links(out)) == 12


def test_an_export_that_is_under_way_is_waited_for(cvat: Start, out: Path) -> None:
    server = cvat(drawn_task(), requests={"action=export&target=task&target_id=42&user=1": 2})
    fetch_dump(f"{server.host}/tasks/42", out)
    assert server.count("POST", EXPORT) == 3
    assert len(frame_links(out)) == 6


@pytest.mark.parametrize(
    "fault",
    [
        ("GET /api/tasks/42", 500),
        ("GET /api/requests/.*", 502),
        ("GET /api/jobs", 503),
        ("GET /api/tasks/42/dataset/download", 504),
        ("GET /api/tasks/42/data/meta", 500),
    ],
)
def test_a_server_that_fails_once_is_asked_again(fault: tuple[str, int], cvat: Start, out: Path) -> None:
    server = cvat(drawn_task(), faults=[fault])
    fetch_dump(f"{server.host}/tasks/42", out)
    assert server.faults == []
    assert len(frame_links(out)) == 6


@pytest.mark.parametrize("ranges", [True, False])
def test_a_download_that_breaks_off_goes_on(ranges: bool, cvat: Start, out: Path) -> None:
    server = cvat(drawn_task(images=40), break_after=3000, ranges=ranges)
    fetch_dump(f"{server.host}/tasks/42", out)
    assert server.count("GET", ".*/download") == 2
    assert len(frame_links(out)) == 40


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (("GET /api/tasks/42", 401), ["does not know you (401)", "CVAT_ACCESS_TOKEN"]),
        (("GET /api/tasks/42", 403), ["does not allow it (403)"]),
        (("GET /api/tasks/42", 404), ["(404)", "check the address"]),
        (("POST /api/tasks/42/dataset/export", 410), ["has another API (410)", "pip install 'cvat-sdk~=2.64.0'"]),
        (("POST /api/tasks/42/dataset/export", 400), ["refuses (400)", "It is 400 now"]),
    ],
)
def test_a_refusal_is_one_line(fault: tuple[str, int], words: list[str], cvat: Start, out: Path) -> None:
    server = cvat(drawn_task(), faults=[fault])
    with refused(server.host, *words):
        fetch_dump(f"{server.host}/tasks/42", out)


def test_an_export_that_fails_after_it_was_accepted_is_one_line(cvat: Start, out: Path) -> None:
    server = cvat(drawn_task(), exports_fail="Traceback:\n  File\nKeyError: 'no\nsuch frame'")
    with refused("could not export task 42", "such frame"):
        fetch_dump(f"{server.host}/tasks/42", out)


def test_a_damaged_export_leaves_what_was_there(cvat: Start, out: Path) -> None:
    server = cvat(drawn_task())
    fetch_dump(f"{server.host}/tasks/42", out)
    before = tree(out / "task_42")
    server.tasks[42].rectangle(0, "bolt", [1.0, 1.0, 9.0, 9.0])
    server.damage = True
    with refused(f"{server.host}'s export of task 42 is not a readable zip archive"):
        fetch_dump(f"{server.host}/tasks/42", out)
    assert tree(out / "task_42") == before


@pytest.mark.parametrize(
    ("path", "words"),
    [("tasks/9", "no /api/tasks/9"), ("projects/9", "no /api/projects/9"), ("tasks/42", "tasks/42 has no images")],
)
def test_what_is_not_there_is_one_line(path: str, words: str, cvat: Start, out: Path) -> None:
    server = cvat(Task(42, {}, {"bolt": 1}))
    with refused(server.host, words):
        fetch_dump(f"{server.host}/{path}", out)


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({}, "asks who you are: set CVAT_ACCESS_TOKEN, or CVAT_USERNAME and CVAT_PASSWORD"),
        ({"CVAT_USERNAME": "anna"}, "asks who you are"),
        ({"CVAT_USERNAME": "anna", "CVAT_PASSWORD": "wrong"}, "does not know user 'anna' with this password"),
        ({"CVAT_ACCESS_TOKEN": "wrong"}, "does not know you (401)"),
    ],
)
def test_who_is_not_known_is_told_what_to_set(
    environment: dict[str, str], words: str, cvat: Start, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = cvat(drawn_task())
    for name in ("CVAT_USERNAME", "CVAT_PASSWORD"):
        monkeypatch.delenv(name)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with refused(server.host, words):
        fetch_dump(f"{server.host}/tasks/42", out)


@pytest.mark.parametrize("token", [TOKEN, READ_ONLY_TOKEN])
def test_an_access_token_is_enough(token: str, cvat: Start, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = cvat(drawn_task())
    monkeypatch.setenv("CVAT_ACCESS_TOKEN", token)
    fetch_dump(f"{server.host}/tasks/42", out)
    assert server.count("POST", "/api/auth/login") == 0
    assert len(frame_links(out)) == 6


def test_a_profile_of_cvat_clis_is_enough(cvat: Start, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from cvat_sdk.core.auth import AuthStore, ProfileEntry

    server = cvat(drawn_task())
    for name in ("CVAT_USERNAME", "CVAT_PASSWORD"):
        monkeypatch.delenv(name)
    AuthStore().put_profile("other", ProfileEntry("https://cvat.example.com", "wrong", ""))
    AuthStore().put_profile("mine", ProfileEntry(server.host, TOKEN, ""))
    fetch_dump(f"{server.host}/tasks/42", out)
    assert len(frame_links(out)) == 6
    AuthStore().path.chmod(0o644)
    with refused(server.host, "has permissions", "chmod"):
        fetch_dump(f"{server.host}/tasks/42", out)


def test_a_server_that_is_older_than_the_sdk_exports(cvat: Start, out: Path) -> None:
    server = cvat(drawn_task(), version="2.23.1")
    fetch_dump(f"{server.host}/tasks/42", out)
    assert len(frame_links(out)) == 6


def test_without_the_sdk_it_is_said_what_to_install(cvat: Start, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = cvat(drawn_task())
    monkeypatch.setitem(sys.modules, "cvat_sdk.core.client", None)
    with refused(server.host, "pip install 'cvat-detr[cvat]'"):
        fetch_dump(f"{server.host}/tasks/42", out)


def test_what_is_no_cvat_server_is_one_line(s3: Any, logged_in: None, out: Path) -> None:
    with refused(s3.endpoint):
        fetch_dump(f"{s3.endpoint}/tasks/42", out)


@pytest.mark.parametrize(
    ("host", "words"),
    [
        ("http://127.0.0.1:9", "cannot be reached (Connection refused)"),
        ("http://cvat.invalid", "cannot be reached ("),
    ],
)
def test_a_server_that_is_away_is_told_in_the_systems_words(host: str, words: str, logged_in: None, out: Path) -> None:
    with pytest.raises(TemporaryError, match=re.escape(f"{host} {words}")) as caught:
        fetch_dump(f"{host}/tasks/42", out)
    assert not re.search("Pool|Max retries|object at", str(caught.value))


def test_a_certificate_that_is_not_trusted_is_told_with_a_remedy_that_helps(
    logged_in: None, out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority, context = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    server = ThreadingHTTPServer(("localhost", 0), BaseHTTPRequestHandler)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        with refused("has a certificate that is not trusted here", "set SSL_CERT_FILE"):
            fetch_dump(f"https://localhost:{server.server_port}/tasks/42", out)
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
        with refused("(501)"):
            fetch_dump(f"https://localhost:{server.server_port}/tasks/42", out)
    finally:
        server.shutdown()
        server.server_close()


def test_the_double_speaks_as_the_sdks_models_do(cvat: Start) -> None:
    """What the SDK reads with its own models, which refuse what they do not know."""
    from cvat_sdk import make_client, models

    server = cvat(drawn_task(project=7))
    with make_client(server.host, credentials=("anna", "pass word")) as client:
        task = client.tasks.retrieve(42)
        assert [job.id for job in task.get_jobs()] == [420, 421]
        assert {label.name: label.id for label in task.get_labels()} == server.tasks[42].labels
        assert [frame.name for frame in task.get_frames_info()] == list(server.tasks[42].frames)
        assert len(task.get_annotations().shapes) == 12
        assert [each.id for each in client.projects.retrieve(7).get_tasks()] == [42]
        accepted, _ = client.tasks.api.create_dataset_export(
            format="CVAT for images 1.1", id=42, save_images=True, location="local"
        )
        request, _ = client.wait_for_completion(accepted.rq_id, status_check_period=0)
        assert isinstance(request, models.Request)
        assert request.status.value == "finished"
