"""New tasks, made by the SDK on a server that speaks what it does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from cvat_sdk.core import uploading

from steps.common.errors import EXIT_TEMPORARY
from steps.cvat import new_task
from steps.cvat.new_task import open_task, plan, pre_annotate
from steps.cvat.server import Server
from tests.cvat_double import READ_ONLY_TOKEN, TOKEN, CvatDouble, drawn_task
from tests.steps.cvat.test_annotate import predicted
from tests.steps.refusals import refused
from trainer import load

Start = Callable[..., CvatDouble]
CLASSES = ["nut", "bolt"]


@pytest.fixture
def images(tmp_path: Path) -> dict[str, Path]:
    """Six images in two folders, in an order that is not that of their names."""
    files = {}
    for name, content in drawn_task().frames.items():
        files[name] = tmp_path / name
        files[name].parent.mkdir(exist_ok=True)
        files[name].write_bytes(content)
    return files


def make(double: CvatDouble, images: dict[str, Path], project: int | None = None) -> int:
    with Server(double.host) as server:
        return open_task(plan(server, "next", project, CLASSES), images)


def test_a_task_has_the_images_in_their_order_and_the_classes_as_labels(cvat: Start, images: dict[str, Path]) -> None:
    double = cvat()
    task = double.tasks[make(double, images)]
    assert list(task.frames) == [f"img {number}.png" for number in (6, 5, 4, 3, 2, 1)]
    assert list(task.frames.values()) == [path.read_bytes() for path in images.values()]
    assert list(task.labels) == CLASSES
    assert (task.name, task.project) == ("next", None)


def test_images_of_one_name_in_two_folders_stay_two(cvat: Start, tmp_path: Path) -> None:
    """So does what a link points to, although the SDK goes by the name of that."""
    names = ["a/1.png", "b/1.png", "a_1.png", "2.png", "linked.png"]
    images = {}
    for number, name in enumerate(names):
        images[name] = tmp_path / name
        images[name].parent.mkdir(exist_ok=True)
        if name == "linked.png":
            images[name].symlink_to(tmp_path / "2.png")
        else:
            images[name].write_bytes(b"image %d" % number)
    double = cvat()
    task = double.tasks[make(double, images)]
    assert list(task.frames) == ["a_1.png", "b_1.png", "_a_1.png", "2.png", "linked.png"]
    assert list(task.frames.values()) == [b"image 0", b"image 1", b"image 2", b"image 3", b"image 3"]


def test_many_and_large_images_go_in_several_requests(
    cvat: Start, images: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = sorted(path.stat().st_size for path in images.values())
    monkeypatch.setattr(uploading.DataUploader.__init__, "__kwdefaults__", {"max_request_size": sizes[2]})
    monkeypatch.setattr(uploading, "TUS_CHUNK_SIZE", sizes[-1] // 2)
    double = cvat()
    task = double.tasks[make(double, images)]
    assert double.uploads
    assert double.count("POST", ".*/data") > 4
    assert list(task.frames.values()) == [path.read_bytes() for path in images.values()]


def test_a_task_in_a_project_has_its_labels(cvat: Start, images: dict[str, Path]) -> None:
    old = drawn_task(42, project=7)
    double = cvat(old)
    task = double.tasks[make(double, images, 7)]
    assert (task.project, task.labels) == (7, old.labels)


def test_a_task_in_a_project_of_an_organisation_is_the_organisation_s(cvat: Start, images: dict[str, Path]) -> None:
    double = cvat(drawn_task(42, project=7), organizations={7: 3})
    assert double.tasks[make(double, images, 7)].project == 7


def test_predictions_go_into_the_new_task(cvat: Start, images: dict[str, Path], run: Path) -> None:
    double = cvat(drawn_task(42, project=7))
    detector = load(run)
    with Server(double.host) as server:
        task = plan(server, "next", 7, detector.class_names)
        number = open_task(task, images)
        written = pre_annotate(task, number, detector, 0)
    assert double.tasks[number].boxes() == predicted(run, double.tasks[number])
    assert written == len(double.tasks[number].boxes()) > 20


def test_what_the_server_would_not_have_is_said_before_anything_is_made(
    cvat: Start, images: dict[str, Path], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    other, skeletons = drawn_task(42, project=7), drawn_task(43, project=8)
    other.labels = {"washer": 1}
    skeletons.types = {"nut": "skeleton"}
    double = cvat(other, skeletons)
    with refused("/api/projects/9", "(404)"):
        make(double, images, 9)
    with refused(f"project 7 of {double.host} has no label for rectangles of nut, bolt", "it has washer"):
        make(double, images, 7)
    with Server(double.host) as server:
        assert plan(server, "next", 8, CLASSES).labels == ["bolt"]
    assert "no label for rectangles of nut: such predictions are left out" in caplog.text
    monkeypatch.setenv("CVAT_ACCESS_TOKEN", READ_ONLY_TOKEN)
    with refused(f"{double.host} lets this access token read only", "make a token that may write"):
        make(double, images)
    assert double.count("POST", "/api/tasks") == 0
    monkeypatch.setenv("CVAT_ACCESS_TOKEN", TOKEN)
    make(double, images)
    monkeypatch.setenv("CVAT_ACCESS_TOKEN", "no-token")
    with refused(f"{double.host} does not know you (401)", "CVAT_ACCESS_TOKEN"):
        make(double, images)


@pytest.mark.parametrize(
    ("fault", "words", "temporary"),
    [
        (("POST .*/data", 403), "does not allow it (403)", False),
        (("POST .*/data", 413), "refuses (413)", False),
        (("POST .*/data", 502), "fails (502)", True),
        (("GET /api/requests/.*", 404), "(404)", False),
    ],
)
def test_a_task_that_could_not_be_filled_is_removed(
    fault: tuple[str, int], words: str, temporary: bool, cvat: Start, images: dict[str, Path]
) -> None:
    double = cvat(faults=[fault])
    with pytest.raises(new_task.StepError) as caught:
        make(double, images)
    assert words in str(caught.value)
    assert (caught.value.exit_status == EXIT_TEMPORARY) == temporary
    assert double.count("DELETE", "/api/tasks/101") == 1
    assert double.tasks == {}
    make(double, images)
    assert len(double.tasks) == 1


def test_images_that_the_server_cannot_read_are_told_with_what_it_said(cvat: Start, images: dict[str, Path]) -> None:
    double = cvat(data_fails="ValueError: img 6.png is no image")
    with refused(f"{double.host} could not make task 101 of 6 images", "img 6.png is no image"):
        make(double, images)
    assert double.tasks == {}


def test_a_task_is_removed_when_the_step_is_stopped(
    cvat: Start, images: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*arguments: object) -> None:
        raise SystemExit(143)

    double = cvat()
    monkeypatch.setattr(new_task, "finished", stop)
    with pytest.raises(SystemExit):
        make(double, images)
    assert double.tasks == {}


def test_a_task_that_cannot_be_removed_is_named(
    cvat: Start, images: dict[str, Path], caplog: pytest.LogCaptureFixture
) -> None:
    double = cvat(faults=[("POST .*/data", 403), ("DELETE .*", 500)])
    with refused("(403)"):
        make(double, images)
    assert f"task 101 is left on {double.host} without images: delete it there" in caplog.text


def test_a_label_that_the_server_refuses_is_told_with_what_it_said(cvat: Start, images: dict[str, Path]) -> None:
    double = cvat()
    with Server(double.host) as server, refused("refuses (400)", "64 characters"):
        open_task(plan(server, "next", None, ["n" * 65]), images)
    assert double.tasks == {}


def test_a_server_that_is_away_may_come_back(cvat: Start) -> None:
    host = cvat().host
    with pytest.raises(new_task.StepError) as caught:
        Server(host.replace("127.0.0.1", "127.0.0.2"))
    assert caught.value.exit_status == EXIT_TEMPORARY
    assert "cannot be reached" in str(caught.value)
