"""Predictions into tasks of a CVAT server, by the SDK's own driver."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from steps.annotate import annotate_tasks
from steps.cvat.boxes import plain_boxes
from steps.cvat.function import DetectorFunction, create
from tests.cvat_double import READ_ONLY_TOKEN, CvatDouble, Task, drawn_task, images
from tests.steps.refusals import refused
from trainer import checkpoint, load

Start = Callable[..., CvatDouble]


def predicted(run: Path, task: Task, threshold: float | None = 0) -> list[tuple[int, str, list[float], str]]:
    """What the task shall hold afterwards, as it holds it."""
    detector = load(run / "checkpoints" / "best.pth")
    return [
        (frame, detector.class_names[label], pytest.approx(points, abs=0.02), "auto")
        for frame, found in enumerate(detector.predict(images(task), threshold))
        for label, _, points in plain_boxes(found)
    ]


def patches(server: CvatDouble) -> int:
    return server.count("PATCH", ".*") + server.count("PUT", ".*")


def test_predictions_arrive_in_their_frames_with_the_tasks_own_labels(cvat: Start, run: Path) -> None:
    task = drawn_task(43, 10, annotated=False)
    server = cvat(task)
    written = annotate_tasks(str(run), f"{server.host}/tasks/43", threshold=0)
    assert task.boxes() == predicted(run, task)
    assert written == {"task_43": len(task.boxes())}
    assert len(task.boxes()) > 40
    assert patches(server) == 1


def test_a_video_is_annotated_frame_by_frame(cvat: Start, run: Path) -> None:
    task = drawn_task(43, 10, annotated=False, mode="interpolation")
    task.meta = {"frames": [{"name": "clip.mp4"}], "deleted_frames": [3]}
    server = cvat(task)
    annotate_tasks(str(run), f"{server.host}/tasks/43", threshold=0)
    assert task.boxes() == [each for each in predicted(run, task) if each[0] != 3]
    assert patches(server) == 1


def test_the_model_may_lie_in_a_bucket(cvat: Start, run: Path, bucket: str, put: Any) -> None:
    task = drawn_task(43, 2, annotated=False)
    server = cvat(task)
    put("ns/models/1/checkpoints/best.pth", run / "checkpoints" / "best.pth")
    annotate_tasks(f"s3://{bucket}/ns/models/1", f"{server.host}/tasks/43", threshold=0)
    assert task.boxes() == predicted(run, task)


def test_each_class_has_the_threshold_of_its_operating_point(cvat: Start, run: Path, tmp_path: Path) -> None:
    task = drawn_task(43, annotated=False)
    server = cvat(task)
    scores: dict[int, list[float]] = {0: [], 1: []}
    for found in load(run / "checkpoints" / "best.pth").predict(images(task), 0):
        for label, score, _ in plain_boxes(found):
            scores[label].append(score)
    points = {
        name: {"score": sorted(scores[label])[len(scores[label]) // 2]} for label, name in enumerate(("nut", "bolt"))
    }
    content = checkpoint.read(run / "checkpoints" / "best.pth")
    checkpoint.save(tmp_path / "best.pth", {**content, "operating_points": {"overall": {}, "per_class": points}})
    annotate_tasks(str(tmp_path / "best.pth"), f"{server.host}/tasks/43")
    for label, name in enumerate(("nut", "bolt")):
        wanted = sum(score >= points[name]["score"] for score in scores[label])
        assert 0 < wanted < len(scores[label])
        assert sum(box[1] == name for box in task.boxes()) == wanted


def test_a_second_run_adds_nothing(cvat: Start, run: Path) -> None:
    task = drawn_task(43, annotated=False)
    server = cvat(task)
    annotate_tasks(str(run), f"{server.host}/tasks/43", threshold=0)
    before = task.boxes()
    assert annotate_tasks(str(run), f"{server.host}/tasks/43", threshold=0) == {"task_43": 0}
    assert task.boxes() == before
    assert patches(server) == 1


def test_what_people_drew_stays_and_their_frames_are_left_alone(cvat: Start, run: Path) -> None:
    """Frame 0 has a box, 1 and 2 a track, 3 what an earlier model made, 4 the same, corrected."""
    task = drawn_task(43, annotated=False)
    box = [1.0, 2.0, 30.0, 40.0]
    task.rectangle(0, "bolt", box)
    shape = {"type": "rectangle", "points": box, "outside": False}
    task.annotations["tracks"].append(
        {"id": 1, "frame": 1, "label_id": task.labels["nut"], "group": 0, "source": "manual", "attributes": [],
         "shapes": [{**shape, "frame": 1}, {**shape, "frame": 3, "outside": True}]}
    )  # fmt: skip
    task.rectangle(3, "nut", box, "auto")
    task.rectangle(4, "nut", box, "semi-auto")
    task.rectangle(4, "bolt", box, "auto")
    before = task.boxes()
    server = cvat(task)
    annotate_tasks(str(run), f"{server.host}/tasks/43", threshold=0)
    wanted = predicted(run, task)
    assert task.boxes() == before + [each for each in wanted if each[0] == 5]

    annotate_tasks(str(run), f"{server.host}/tasks/43", threshold=0, replace=True)
    kept = [each for each in before if each[0] != 3]
    assert task.boxes() == kept + [each for each in wanted if each[0] in (3, 5)]


def test_jobs_and_projects_are_annotated(cvat: Start, run: Path) -> None:
    tasks = [drawn_task(number, annotated=False, project=7) for number in (43, 44)]
    server = cvat(*tasks)
    annotate_tasks(str(run), f"{server.host}/tasks/43/jobs/431", threshold=0)
    assert {box[0] for box in tasks[0].boxes()} == {3, 4, 5}
    annotate_tasks(str(run), f"{server.host}/projects/7", threshold=0)
    assert all({box[0] for box in task.boxes()} == set(range(6)) for task in tasks)


def test_a_label_that_the_task_lacks_is_said_before_anything_is_sent(
    cvat: Start, run: Path, caplog: pytest.LogCaptureFixture
) -> None:
    complete, task, skeletons = (drawn_task(number, annotated=False) for number in (42, 43, 44))
    task.labels["washer"] = task.labels.pop("nut")
    skeletons.types = {"nut": "skeleton"}
    server = cvat(complete, task, skeletons)
    for number in (43, 44):
        with refused(f"task {number} of {server.host} has no label for rectangles of nut", "--unmatched-labels skip"):
            annotate_tasks(str(run), f"{server.host}/tasks/42,{number}", threshold=0)
    assert patches(server) == server.count("GET", ".*/data") == 0
    caplog.set_level("INFO")
    annotate_tasks(str(run), f"{server.host}/tasks/43", threshold=0, unmatched_labels="skip")
    assert task.boxes() == [each for each in predicted(run, task) if each[1] == "bolt"]
    assert "no label for rectangles of nut: such predictions are left out" in caplog.text
    del task.labels["bolt"]
    with refused("no label for rectangles of nut, bolt", "it has washer"):
        annotate_tasks(str(run), f"{server.host}/tasks/43", threshold=0, unmatched_labels="skip")


def test_a_server_that_fails_once_is_asked_again(cvat: Start, run: Path) -> None:
    task = drawn_task(43, 10, annotated=False)
    server = cvat(task, faults=[("GET .*/data", 500), ("GET .*/data", 503), ("GET .*/annotations", 500)])
    annotate_tasks(str(run), f"{server.host}/tasks/43", threshold=0)
    assert server.faults == []
    assert task.boxes() == predicted(run, task)
    assert patches(server) == 1


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (("PATCH .*", 500), "fails (500)"),
        (("PATCH .*", 400), "refuses (400)"),
        (("GET .*/annotations", 403), "does not allow it (403)"),
    ],
)
def test_a_failure_leaves_nothing_and_the_next_run_does_it_all(
    fault: tuple[str, int], words: str, cvat: Start, run: Path
) -> None:
    task = drawn_task(43, annotated=False)
    server = cvat(task, faults=[fault])
    with refused(server.host, words):
        annotate_tasks(str(run), f"{server.host}/tasks/43", threshold=0)
    assert task.boxes() == []
    annotate_tasks(str(run), f"{server.host}/tasks/43", threshold=0)
    assert task.boxes() == predicted(run, task)


def test_a_token_that_may_only_read_is_told_so(cvat: Start, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = cvat(drawn_task(43, annotated=False))
    monkeypatch.setenv("CVAT_ACCESS_TOKEN", READ_ONLY_TOKEN)
    with refused(server.host, "(403)", "an access token may read only"):
        annotate_tasks(str(run), f"{server.host}/tasks/43", threshold=0)


def test_a_server_that_the_sdk_does_not_understand_is_told_with_the_version_to_install(cvat: Start, run: Path) -> None:
    server = cvat(drawn_task(43, annotated=False), version="2.23.1", lacks="jobs")
    with refused("does not understand", "which is CVAT 2.23.1", "pip install 'cvat-sdk~=2.23.0'"):
        annotate_tasks(str(run), f"{server.host}/tasks/43", threshold=0)


def test_what_is_not_there_is_one_line(cvat: Start, run: Path, tmp_path: Path) -> None:
    server = cvat(drawn_task(43, annotated=False))
    # Before anybody is asked who they are.
    with refused("checkpoint", tmp_path, "neither a checkpoint"):
        annotate_tasks(str(tmp_path), "http://127.0.0.1:9/tasks/43")
    with refused("(404)"):
        annotate_tasks(str(run), f"{server.host}/tasks/44")
    with refused("--to 'tasks/43' is not a task of a CVAT server"):
        annotate_tasks(str(run), "tasks/43")
    assert annotate_tasks(str(run), "") == {}


def test_boxes_are_plain_numbers_without_those_that_are_none() -> None:
    found = {
        "scores": torch.tensor([0.9, 0.8, float("nan"), 0.6]),
        "labels": torch.tensor([1, 0, 0, 0]),
        "boxes": torch.tensor(
            [[0.0, 1.004, 20.5, 30.0], [5.0, 5.0, 5.001, 9.0], [0.0, 0, 1, 1], [0.0, float("nan"), 1, 1]]
        ),
    }
    ((label, score, points),) = plain_boxes(found)
    assert (label, points) == (1, [0.0, 1.0, 20.5, 30.0])
    assert all(type(value) is float for value in (score, *points))


class Context:
    """What a server asks for."""

    frame_name = "a.png"

    def __init__(self, conf_threshold: float | None) -> None:
        self.conf_threshold = conf_threshold


def test_the_function_does_what_the_server_asks_for(run: Path) -> None:
    function = create(str(run), threshold=1.0)
    (image, *_) = images(drawn_task(43, 1))
    assert [(label.name, label.id) for label in function.spec.labels] == [("nut", 0), ("bolt", 1)]
    assert function.detect(Context(None), image) == []
    assert len(function.detect(Context(0.0), image)) == 6
    only = DetectorFunction(load(run / "checkpoints" / "best.pth"), 0, ["bolt"])
    assert {shape.label_id for shape in only.detect(Context(None), image)} == {1}


def test_cvat_cli_takes_the_module(cvat: Start, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from cvat_cli.__main__ import main

    task = drawn_task(43, annotated=False)
    server = cvat(task)
    monkeypatch.setenv("PASS", "pass word")
    monkeypatch.setenv("XDG_CACHE_HOME", str(run / "cache"))
    words = ["--server-host", server.host, "--auth", "anna", "task", "auto-annotate", "43", "--conf-threshold", "0"]
    given = ["--function-module", "steps.cvat.function", "-p", f"checkpoint=str:{run}"]
    assert main([*words, *given]) == 0
    assert task.boxes() == predicted(run, task)
