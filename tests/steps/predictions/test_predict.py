"""The step as a whole: which predictions, which files, and what becomes of them when something goes wrong."""

from __future__ import annotations

import csv
import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from steps.common.errors import TemporaryError
from steps.common.lock import only_writer
from steps.predict import predict_images
from steps.predictions.drawing import write_picture
from steps.predictions.predicted import Predicted
from tests.faults.lab import Step, length, moments
from tests.processes import held
from tests.steps.predictions.conftest import found_on
from tests.steps.refusals import refused
from trainer import checkpoint
from trainer.data.images import read_image

FILES = {"cvat_images.zip", "cvat_coco.zip", "predictions.csv", "coco_results.json", "image_info.json"}


def written(output: Path) -> dict[str, bytes]:
    # Hidden are the lock, and what a kill leaves of a file that was being written.
    return {path.name: path.read_bytes() for path in output.iterdir() if path.is_file() and path.name[0] != "."}


def test_each_class_has_the_threshold_of_its_operating_point(run: Path, photos: Path, tmp_path: Path) -> None:
    scores: dict[str, list[float]] = {"nut": [], "bolt": []}
    for boxes in found_on(run, photos).values():
        for name, score, _ in boxes:
            scores[name].append(score)
    # Between two scores, so that no rounding decides.
    points = {name: {"score": sum(sorted(found)[len(found) // 2 :][:2]) / 2} for name, found in scores.items()}
    content = checkpoint.read(run / "checkpoints" / "best.pth")
    checkpoint.save(tmp_path / "best.pth", {**content, "operating_points": {"overall": {}, "per_class": points}})
    for threshold in (None, 0.35):
        predict_images(str(tmp_path / "best.pth"), str(photos), tmp_path / "out", threshold, "csv")
        with (tmp_path / "out" / "predictions.csv").open(newline="") as file:
            counts = Counter(row["class"] for row in csv.DictReader(file))
        for name, found in scores.items():
            wanted = sum(score >= (points[name]["score"] if threshold is None else threshold) for score in found)
            assert 0 < wanted < len(found)
            assert counts[name] == wanted


def test_what_is_written_is_what_is_asked_for(run: Path, photos: Path, tmp_path: Path) -> None:
    assert {path.name for path in predict_images(str(run), str(photos), tmp_path / "all")} == FILES
    assert set(written(tmp_path / "all")) == FILES
    predict_images(str(run), str(photos), tmp_path / "some", write="coco, pictures")
    assert set(written(tmp_path / "some")) == {"cvat_coco.zip"}
    for wrong in ("coco,xml", ""):
        with refused(f"--write '{wrong}'", "cvat, coco, csv, results, pictures"):
            predict_images(str(run), str(photos), tmp_path / "none", write=wrong)
    assert not (tmp_path / "none").exists()


def test_boxes_are_drawn_where_they_are(run: Path, photos: Path, tmp_path: Path) -> None:
    predict_images(str(run), str(photos), tmp_path / "out", threshold=0, write="pictures")
    drawn = sorted(path.relative_to(tmp_path / "out" / "pictures") for path in tmp_path.rglob("out/pictures/*/*"))
    assert drawn == sorted(path.relative_to(photos) for path in photos.rglob("*.png"))

    plain = Image.new("RGB", (300, 200), "black")
    boxes = [(0, 0.9, [100.0, 80.0, 180.0, 150.0]), (1, 0.4, [0.0, 0.0, 300.0, 200.0])]
    write_picture(plain, Predicted("a.png", 300, 200, boxes), ["nut", "bolt"], tmp_path / "a.png")
    picture = read_image(tmp_path / "a.png")
    colours = [picture.getpixel(place) for place in ((100, 120), (179, 120), (140, 149), (0, 120), (299, 199))]
    assert colours[0] == colours[1] == colours[2] != colours[3] == colours[4]
    assert (0, 0, 0) not in colours
    assert {picture.getpixel(place) for place in ((140, 110), (50, 120), (250, 120))} == {(0, 0, 0)}
    # The name stands above the box; where there is no room, inside.
    assert colours[0] in {picture.getpixel((x, 72)) for x in range(100, 130)}
    assert colours[3] in {picture.getpixel((x, 8)) for x in range(3, 30)}
    assert plain.getbbox() is None


def test_a_model_in_a_bucket(
    run: Path, photos: Path, put: Callable[[str, Path], None], bucket: str, tmp_path: Path
) -> None:
    put("ns/models/1/checkpoints/best.pth", run / "checkpoints" / "best.pth")
    predict_images("models/1", str(photos), tmp_path / "there", 0, "csv", namespace="ns")
    predict_images(str(run), str(photos), tmp_path / "here", 0, "csv")
    assert written(tmp_path / "there") == written(tmp_path / "here")


def test_without_a_model_nothing_is_touched(run: Path, photos: Path, no_aws: None, tmp_path: Path) -> None:
    predict_images(str(run), str(photos), tmp_path / "out")
    before = written(tmp_path / "out")
    with refused("absent", "neither a checkpoint nor the folder of a run"):
        predict_images(str(tmp_path / "absent"), str(photos), tmp_path / "out")
    assert written(tmp_path / "out") == before


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_killed_at_any_moment_each_file_is_the_old_one_or_the_new(
    run: Path, photos: Path, tmp_path: Path, number: signal.Signals
) -> None:
    output = tmp_path / "out"
    arguments = ["--checkpoint", run, "--images", photos, "--output", output]
    old, new = (Step(tmp_path / "log", "predict", *arguments, "--threshold", score) for score in (0.4, 0))
    contents = []
    for step in (new, old):
        seconds = length(step)
        contents.append(written(output))
    assert all(contents[0][name] != contents[1][name] for name in FILES - {"image_info.json"})
    for moment in moments(3, seconds, f"predict {number}"):
        new.interrupted(moment, number)
        assert all(content in (each[name] for each in contents) for name, content in written(output).items())
        assert old.run().status == 0
        assert written(output) == contents[1]


def test_a_full_disk_leaves_the_files_of_before(run: Path, photos: Path, tmp_path: Path) -> None:
    """By a limit to the size of a file: the zips still go in, the results do not."""
    output = tmp_path / "out"
    predict_images(str(run), str(photos), output, threshold=0.4)
    before = written(output)
    arguments = ["--checkpoint", run, "--images", photos, "--output", output, "--threshold", 0]
    step = Step(tmp_path / "log", "predict", *arguments)
    done = step.run(largest=4000)
    assert done.refused, done
    assert written(output) == before
    assert step.run().status == 0
    after = written(output)
    assert set(after) == FILES
    assert max(map(len, after.values())) > 4000 > len(after["cvat_images.zip"])
    assert all(after[name] != before[name] for name in FILES - {"image_info.json"})


def test_two_at_once(run: Path, photos: Path, tmp_path: Path) -> None:
    with held(tmp_path / "out", "predict", ".predict.lock") as holder:
        with pytest.raises(TemporaryError) as caught:
            predict_images(str(run), str(photos), tmp_path / "out")
        assert f"predict writes there, process {holder}" in str(caught.value)
    with only_writer(tmp_path / "out", "predict", ".predict.lock"):
        pass
