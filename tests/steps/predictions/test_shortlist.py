"""The images to annotate next: as a list, and as a task of a CVAT server."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import pytest

from steps.common.errors import TemporaryError
from steps.fetch import fetch_dump
from steps.predict import predict_images
from steps.predictions.ranking import Assessed, assess, rank
from steps.prepare import prepare_data
from tests.cvat_double import CvatDouble, drawn_task
from tests.steps.cvat.conftest import cvat, logged_in  # noqa: F401 - fixtures
from tests.steps.cvat.test_annotate import predicted
from tests.steps.refusals import refused
from trainer import load
from trainer.data.images import read_image

Start = Callable[..., CvatDouble]


def rows(output: Path) -> list[dict[str, str]]:
    with (output / "next.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def names(output: Path) -> list[str]:
    return (output / "next.txt").read_text().splitlines()


def test_the_list_is_the_ranking_of_what_the_model_finds(run: Path, photos: Path, tmp_path: Path) -> None:
    detector = load(run)
    files = sorted(photos.rglob("*.png"), key=str)
    for threshold, thresholds in ((None, detector.thresholds), (0.3, [0.3, 0.3])):
        images: list[Assessed] = []
        for path in files:
            (found,) = detector.predict([read_image(path)], 0, features=True)
            images.append(assess(found, thresholds, detector.class_names))
        wanted = rank(images, 4)
        written = predict_images(str(run), str(photos), tmp_path / "out", threshold, "csv", next=4)
        assert {path.name for path in written} == {"predictions.csv", "next.csv", "next.txt"}
        assert names(tmp_path / "out") == [files[each.index].relative_to(photos).as_posix() for each in wanted]
        assert [row["image"] for row in rows(tmp_path / "out")] == names(tmp_path / "out")
        assert [row["rank"] for row in rows(tmp_path / "out")] == ["1", "2", "3", "4"]
        for row, each in zip(rows(tmp_path / "out"), wanted, strict=True):
            assert float(row["uncertainty"]) == pytest.approx(each.uncertainty, abs=0.02)
            assert "doubtful box" in row["reason"]
            assert row["link"] == ""


def test_of_a_task_that_is_annotated_in_part_only_the_rest_is_listed_with_its_frames(
    cvat: Start,  # noqa: F811
    run: Path,
    tmp_path: Path,
) -> None:
    task = drawn_task(42)
    task.annotations["shapes"] = [shape for shape in task.annotations["shapes"] if shape["frame"] < 3]
    address = f"{cvat(task).host}/tasks/42"
    fetch_dump(address, tmp_path / "data")
    prepare_data(tmp_path / "data")
    predict_images(str(run), str(tmp_path / "data"), tmp_path / "out", write="csv", next=9)
    frames = list(task.frames)
    assert sorted(names(tmp_path / "out")) == sorted(f"task_42/images/{name}" for name in frames[3:])
    for row in rows(tmp_path / "out"):
        frame = frames.index(row["image"].removeprefix("task_42/images/"))
        assert row["link"] == f"{address}/jobs/421?frame={frame}"


def test_where_all_is_annotated_there_is_nothing_to_list(
    cvat: Start,  # noqa: F811
    run: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    server = cvat(drawn_task(42))
    fetch_dump(f"{server.host}/tasks/42", tmp_path / "data")
    prepare_data(tmp_path / "data")
    predict_images(str(run), str(tmp_path / "data"), tmp_path / "out", write="csv", next=9, open_task=server.host)
    assert names(tmp_path / "out") == rows(tmp_path / "out") == []
    assert "all images have annotations: there is none to annotate next" in caplog.text
    assert list(server.tasks) == [42]


def test_a_task_is_made_of_them_in_their_order(
    cvat: Start,  # noqa: F811
    run: Path,
    photos: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    server = cvat()
    caplog.set_level("INFO")
    predict_images(str(run), str(photos), tmp_path / "out", write="csv", next=4, open_task=server.host)
    task = server.tasks[101]
    assert list(task.frames.values()) == [(photos / name).read_bytes() for name in names(tmp_path / "out")]
    assert (task.name, list(task.labels), task.boxes()) == (f"next of {photos}", ["nut", "bolt"], [])
    assert caplog.messages[-1] == f"a task of the 4 images to annotate next: {server.host}/tasks/101"


def test_a_task_in_a_project_with_predictions(cvat: Start, run: Path, photos: Path, tmp_path: Path) -> None:  # noqa: F811
    server = cvat(drawn_task(42, project=7))
    place = f"{server.host}/projects/7"
    predict_images(
        str(run), str(photos), tmp_path, 0, "csv", next=4, open_task=place, task_name="more", with_predictions=True
    )
    task = server.tasks[43]
    assert (task.name, task.project, len(task.frames)) == ("more", 7, 4)
    assert task.boxes() == predicted(run, task)


def test_frames_of_a_video_become_images_of_a_task(cvat: Start, run: Path, tmp_path: Path) -> None:  # noqa: F811
    pytest.importorskip("av")
    from tests.steps.predictions.test_media import film

    server = cvat()
    clip = film(tmp_path / "clip.mp4", "libx264")
    predict_images(str(run), str(clip), tmp_path / "out", write="csv", next=3, open_task=server.host)
    assert list(server.tasks[101].frames) == names(tmp_path / "out")
    assert len(names(tmp_path / "out")) == 3


def test_a_zip_is_still_there_when_its_images_are_sent(cvat: Start, run: Path, photos: Path, tmp_path: Path) -> None:  # noqa: F811
    import shutil

    server = cvat()
    archive = shutil.make_archive(str(tmp_path / "photos"), "zip", photos)
    predict_images(str(run), archive, tmp_path / "out", write="csv", next=2, open_task=server.host)
    assert list(server.tasks[101].frames.values()) == [(photos / name).read_bytes() for name in names(tmp_path / "out")]


def test_what_goes_wrong_with_the_task_leaves_the_list(
    cvat: Start,  # noqa: F811
    run: Path,
    photos: Path,
    tmp_path: Path,
) -> None:
    server = cvat(faults=[("POST /api/tasks/.*/data", 403)])
    with refused("(403)", f"the images to annotate next are in {tmp_path / 'next.csv'}"):
        predict_images(str(run), str(photos), tmp_path, write="csv", next=4, open_task=server.host)
    assert server.tasks == {}
    assert len(names(tmp_path)) == 4

    server.faults.append(("PATCH .*", 500))
    with pytest.raises(TemporaryError, match=f"{server.host}/tasks/101 has its images, and 'annotate' can predict"):
        predict_images(str(run), str(photos), tmp_path, 0, "csv", next=4, open_task=server.host, with_predictions=True)
    assert len(server.tasks[101].frames) == 4


def test_a_server_that_would_not_have_the_task_says_so_before_anything_is_predicted(
    cvat: Start,  # noqa: F811
    run: Path,
    photos: Path,
    tmp_path: Path,
) -> None:
    server = cvat(drawn_task(42))
    with refused("/api/projects/9", "(404)"):
        predict_images(str(run), str(photos), tmp_path, next=4, open_task=f"{server.host}/projects/9")
    for wrong in ("cvat.example.com", f"{server.host}/tasks/42", f"{server.host}/projects/1,2"):
        with refused(f"'{wrong}' is neither a CVAT server nor a project on one", "https://cvat.example.com"):
            predict_images(str(run), str(photos), tmp_path, next=4, open_task=wrong)
    with refused("--open-task makes a task of the images that --next chooses"):
        predict_images(str(run), str(photos), tmp_path, open_task=server.host)
    with refused("--task-name", "--open-task"):
        predict_images(str(run), str(photos), tmp_path, next=4, task_name="more")
    assert not list(tmp_path.glob("*.csv"))
