"""The report page, read back as a browser would: parsed HTML from real files in a temporary folder."""

from __future__ import annotations

import base64
import io
import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from steps.common.errors import StepError
from steps.report import write_report

VOID = {"meta", "link", "input", "br", "img", "hr"}


class Page(HTMLParser):
    """The elements and the text of a page; fails on tags that do not close in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.source = text
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {key: value or "" for key, value in attrs}))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {key: value or "" for key, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] != "style":
            self.words.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.words))

    def all(self, tag: str, css: str = "") -> list[dict[str, str]]:
        return [a for t, a in self.tags if t == tag and (not css or css in a.get("class", "").split())]


def write_run(
    root: Path,
    *,
    classes: tuple[str, ...] = ("RBC", "WBC"),
    images: int = 4,
    predictions: list[dict[str, Any]] | None = None,
    metrics: dict[str, Any] | None = None,
    log: list[dict[str, Any]] | None = None,
    size: tuple[int, int] = (200, 150),
) -> tuple[Path, Path]:
    """Image 0 has no boxes, the others one of each class side by side; predictions repeat the truth."""
    dataset, output = root / "dataset", root / "output"
    (dataset / "annotations").mkdir(parents=True)
    (dataset / "images").mkdir()
    output.mkdir()
    boxes = []
    rows = []
    for index in range(images):
        name = f"images/cell {index}.png"
        Image.new("RGB", size, (200, 40 * index % 255, 90)).save(dataset / name)
        rows.append({"id": index, "file_name": name, "width": size[0], "height": size[1]})
        for place, _ in enumerate(classes if index else ()):
            bbox = [10.0 + 4 * place, 20.0, 30.0, 40.0]
            boxes.append({"id": len(boxes) + 1, "image_id": index, "category_id": place + 1, "bbox": bbox})
    coco = {
        "images": rows,
        "annotations": boxes,
        "categories": [{"id": n + 1, "name": name} for n, name in enumerate(classes)],
    }
    (dataset / "annotations" / "instances_val.json").write_text(json.dumps(coco))
    if predictions is None:
        predictions = [{**box, "score": 0.9} for box in boxes]
    (output / "predictions.json").write_text(json.dumps(predictions))
    per_class = {
        name: {"AP": 0.7 - 0.01 * n, "AP50": 0.9, "AR100": 0.8, "boxes": images - 1, "images": images - 1}
        for n, name in enumerate(classes)
    }
    numbers = {"AP": 0.6123, "AP50": 0.8765, "AP75": 0.7, "AP_small": -1, "AP_medium": 0.6, "AP_large": 0.65}
    numbers |= {"AR1": 0.3, "AR10": 0.6, "AR100": 0.7, "AR_small": -1, "AR_medium": 0.6, "AR_large": 0.7}
    extra = {"per_class": per_class, "images": images, "boxes": len(boxes), "model": "detr_tiny"}
    (output / "metrics.json").write_text(json.dumps({**numbers, **extra, **(metrics or {})}))
    if log is not None:
        (output / "log.jsonl").write_text("".join(json.dumps(record) + "\n" for record in log))
    return dataset, output


@pytest.mark.parametrize(
    ("server", "links"),
    [("https://cvat.example.com", ["https://cvat.example.com/tasks/42/jobs/9?frame=5"]), ("javascript:alert(1)", [])],
)
def test_a_picture_opens_its_frame_in_cvat(server: str, links: list[str], tmp_path: Path) -> None:
    dataset, output = write_run(tmp_path)
    part = {
        "folder": "images", "task": 42, "frames": {"cell 2.png": 5},
        "jobs": [{"id": 8, "start": 0, "stop": 4}, {"id": 9, "start": 5, "stop": 9}],
    }  # fmt: skip
    (dataset / "cvat.json").write_text(json.dumps({"server": server, "parts": [part]}))
    page = Page(write_report(dataset, output).path.read_text(encoding="utf-8"))
    assert [each["href"] for each in page.all("a") if not each["href"].startswith("#")] == links


def epochs(count: int, **train: float) -> list[dict[str, Any]]:
    return [
        {
            "epoch": epoch,
            "lr": 5e-4,
            "lr_backbone": 5e-5,
            "train": {"loss": 9 - epoch, "loss_ce": 2 / epoch, "loss_bbox": 0.3, "loss_giou": 1.0, **train},
            "val": {"loss": 9.5 - epoch, "loss_ce": 2 / epoch, "AP": 0.01 * epoch, "AP50": 0.02 * epoch}
            if epoch % 2
            else None,
            "seconds": 60.0,
        }
        for epoch in range(1, count + 1)
    ]


def page_of(dataset: Path, output: Path, **options: Any) -> Page:
    report = write_report(dataset, output, **options)
    assert report.path == output / "report.html"
    return Page(report.path.read_text(encoding="utf-8"))


def test_shows_the_numbers_and_nothing_from_elsewhere(tmp_path: Path) -> None:
    dataset, output = write_run(tmp_path, log=epochs(6))
    page = page_of(dataset, output)
    assert "0.612" in page.text
    assert "0.876" in page.text or "0.877" in page.text
    assert "Finds nearly everything, with few false positives." in page.text
    assert "6 of 6 boxes found, score ≥ 0.50" in page.text
    assert len(page.all("figure", "chart")) == 10  # six of the training, one of the scores, three of the recalls
    assert not page.all("script")
    for _, attributes in page.tags:
        for key in ("href", "src", "xlink:href"):
            assert attributes.get(key, "#").startswith(("#", "data:"))
    assert "@import" not in page.source
    assert "url(h" not in page.source
    assert sorted(path.name for path in output.iterdir() if "report" in path.name) == ["report.html"]
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    # COCO's -1 is a dash with a tooltip.
    assert [a["title"] for a in page.all("span", "none")] == [
        "Nothing of this kind is in the validation set, so there is nothing to measure"
    ] * 3
    assert "-1" not in page.text


def test_numbers_of_training_images_are_called_that(tmp_path: Path) -> None:
    dataset, output = write_run(tmp_path, log=epochs(3))
    held_out = page_of(dataset, output).text
    assert "4 validation images with 6 boxes, which it did not train on." in held_out
    assert "was not measured" not in held_out
    (dataset / "prepare_report.json").write_text(json.dumps({"validated_on_training_set": True}))
    text = page_of(dataset, output).text
    assert "4 training images with 6 boxes, the same that it trained on." in text
    assert "with few false positives on its training images." in text
    assert "There is no validation set (val-split 0)" in text
    for untrue in ("did not train on.", "never trained on", "validation image", "reliably"):
        assert untrue not in text.replace("images that it did not train on was not measured", "")


def test_what_counts_is_decided_by_the_operating_points_of_the_classes(tmp_path: Path) -> None:
    points = {
        "overall": {"score": 0.4, "precision": 1.0, "recall": 0.5, "f1": 2 / 3},
        "per_class": {"RBC": {"score": 0.95}, "WBC": {"score": None}},
    }
    dataset, output = write_run(tmp_path, metrics={"operating_points": points})
    report = write_report(dataset, output)
    assert report.headline == "Misses many objects."
    assert report.annotate_next == ["medium “RBC”: 3 of 3 missed"]
    page = page_of(dataset, output)
    assert "Medium “RBC”: 3 of 3 missed" in page.text
    assert "3 of 3 predictions right, score ≥ 0.40 to 0.95 by class" in page.text
    assert "balance best at 0.40 (F1 0.67): 50 % of the objects are found and 100 %" in page.text
    assert len(page.all("rect", "missed")) == 3
    assert "6 of 6 predictions right, score ≥ 0.10" in page_of(dataset, output, score_threshold=0.1).text


def test_the_header_says_where_the_numbers_come_from(tmp_path: Path) -> None:
    origin = {"run": "detr-x7", "evaluated": "2026-11-25T00:12+00:00", "commit": "commit 43f126196d64"}
    dataset, output = write_run(tmp_path, metrics=origin)
    (dataset / "prepare_report.json").write_text(json.dumps({"dump": "s3://b/dump.zip", "digest": "0123456789abcdef"}))
    page = page_of(dataset, output)
    assert "Run detr-x7 Evaluated 2026-11-25 00:12 UTC Dump s3://b/dump.zip Digest 0123456789ab" in page.text
    assert "Version commit 43f126196d64" in page.text
    assert any("0123456789abcdef" in b.get("title", "") for b in page.all("b"))


def test_losses_of_another_model_are_drawn_by_their_names(tmp_path: Path) -> None:
    log = [{"epoch": 1, "train": {"loss": 2.0, "loss_objectness": 1.0, "grad_norm": 3.0}, "val": None}]
    page = page_of(*write_run(tmp_path, log=log))
    titles = [chart["aria-label"] for chart in page.all("div") if chart.get("aria-label", "").endswith("the epochs")]
    assert titles == ["Total loss over the epochs", "Loss objectness over the epochs"]


def test_names_from_the_data_are_escaped(tmp_path: Path) -> None:
    evil = "<b>&\"'</script>"
    dataset, output = write_run(tmp_path, classes=(evil, "ok"))
    (dataset / "prepare_report.json").write_text(
        json.dumps({"classes": {evil: {"train": 3, "val": 3}}, "dropped": {evil: 2}})
    )
    (output / "train.json").write_text(json.dumps({"config": {"<i>note": "<u>x"}}))
    page = page_of(dataset, output)
    assert not [tag for tag, _ in page.tags if tag in {"script", "u"}]
    assert evil not in page.source
    assert page.source.count("&lt;b&gt;&amp;") >= 3
    assert evil in page.text


@pytest.mark.parametrize(("most", "shown"), [(0, 0), (1, 1), (7, 7), (50, 12)])
def test_shows_at_most_so_many_images(tmp_path: Path, most: int, shown: int) -> None:
    page = page_of(*write_run(tmp_path, images=12), max_images=most)
    assert len(page.all("figure", "picture")) == shown
    if shown > 1:
        assert "no true boxes" in page.text


def test_worst_image_comes_first_and_thumbnails_are_small(tmp_path: Path) -> None:
    dataset, output = write_run(tmp_path, images=6, size=(1600, 1200))
    predictions = json.loads((output / "predictions.json").read_text())
    (output / "predictions.json").write_text(json.dumps([p for p in predictions if p["image_id"] != 4]))
    page = page_of(dataset, output)
    assert re.findall(r"cell \d\.png", page.text)[0] == "cell 4.png"
    assert len(page.all("rect", "missed")) == 2
    assert len(page.all("rect", "right")) == 8
    for attributes in page.all("image"):
        data = base64.b64decode(attributes["href"].split(",", 1)[1])
        with Image.open(io.BytesIO(data)) as thumbnail:
            assert thumbnail.format == "JPEG"
            assert thumbnail.width <= 420


def test_a_run_that_found_nothing_says_so(tmp_path: Path) -> None:
    zero = {"AP": 0.0, "AP50": 0.0, "AP75": 0.0, "AR100": 0.0}
    page = page_of(*write_run(tmp_path, predictions=[], metrics=zero, log=epochs(6)))
    assert "Found nothing." in page.text
    assert "predicts no boxes" in page.text
    assert "needs more epochs" in page.text
    assert "There is no prediction at all" in page.text
    assert "No predictions." in page.text
    assert not page.all("g", "guess") or not page.all("rect", "right")
    assert "Which score threshold to use" not in page.text
    assert "There are no curves to draw" in page.text
    assert "No prediction reaches the threshold, so every object counts as missed." in page.text


def test_weak_predictions_are_drawn_when_none_is_strong(tmp_path: Path) -> None:
    dataset, output = write_run(tmp_path, images=2)
    rows = [{"image_id": 1, "category_id": 1, "bbox": [10, 20, 30, 40 + n], "score": 0.4 - 0.01 * n} for n in range(20)]
    (output / "predictions.json").write_text(json.dumps(rows))
    page = page_of(dataset, output)
    assert "No prediction reaches the threshold; the best 5 are drawn (0.36 to 0.40)." in page.text
    assert len(page.all("rect", "wrong")) == 4
    assert len(page.all("rect", "right")) == 1
    assert "0 of 2 boxes found" in page.text


def test_one_class(tmp_path: Path) -> None:
    page = page_of(*write_run(tmp_path, classes=("car",)))
    assert "to find 1 class (car)" in page.text
    assert len([chart for chart in page.all("div") if chart.get("aria-label", "").startswith("Precision over")]) == 1


def test_many_classes(tmp_path: Path) -> None:
    names = tuple(f"kind {n}" for n in range(60))
    dataset, output = write_run(tmp_path, classes=names, images=2)
    # Class 31 is predicted where class 1 is; the box of class 31 itself is too far to the right.
    rows = [{"image_id": 1, "category_id": 31, "bbox": [10, 20, 30, 40], "score": 0.9}]
    (output / "predictions.json").write_text(json.dumps(rows))
    page = page_of(dataset, output)
    assert "All 60 classes" in page.text
    assert "kind 0, kind 1, kind 2, kind 3, kind 4, kind 5 and 54 more" in page.text
    assert page.text.count("kind 30 ") >= 1
    assert "The 12 classes that are confused most often; 48 more are not drawn." in page.text
    assert re.search(r"kind 0\s+predicted as\s+kind 30\s*: 1 time\b", page.text)
    assert page.all("table", "dense")


def test_same_inputs_same_bytes(tmp_path: Path) -> None:
    first = write_report(*write_run(tmp_path / "a", log=epochs(4))).path.read_bytes()
    second = write_report(*write_run(tmp_path / "b", log=epochs(4))).path.read_bytes()
    assert first == second


def test_survives_numbers_that_are_none(tmp_path: Path) -> None:
    log = epochs(5) + epochs(1, loss=math.nan)
    log[-1]["epoch"] = 6
    predictions = [
        {"image_id": 1, "category_id": 1, "bbox": [math.nan, 1, 2, 3], "score": 0.9},
        {"image_id": 1, "category_id": 1, "bbox": [1, 1, 2, 3], "score": math.inf},
        {"image_id": 99, "category_id": 1, "bbox": [1, 1, 2, 3], "score": 0.5},
        {"image_id": 1, "category_id": 77, "bbox": [1, 1, 20, 30], "score": 0.8},
    ]
    metrics = {"AP": math.nan, "AP50": None, "AP75": math.inf}
    dataset, output = write_run(tmp_path, predictions=predictions, metrics=metrics, log=log)
    (output / "log.jsonl").open("a").write('{"epoch": 7, "trai')
    page = page_of(dataset, output)
    assert "Nothing could be measured." in page.text
    assert "stopped being a number in epoch 6" in page.text
    assert not re.search(r"\b(nan|inf)\b", page.text)
    assert len(page.all("rect", "wrong")) == 1


def test_broken_image_and_crowd(tmp_path: Path) -> None:
    dataset, output = write_run(tmp_path, images=3)
    (dataset / "images" / "cell 1.png").write_bytes(b"no image")
    (dataset / "images" / "cell 2.png").unlink()
    path = dataset / "annotations" / "instances_val.json"
    coco = json.loads(path.read_text())
    coco["annotations"][0]["iscrowd"] = 1
    path.write_text(json.dumps(coco))
    page = page_of(dataset, output)
    assert page.text.count("The image file could not be read.") == 2
    assert "3 of 3 boxes found" in page.text  # the crowd is neither found nor missed
    assert len(page.all("rect", "crowd")) == len(page.all("rect", "ignored")) == 1


def test_sixteen_bit_images_are_shown(tmp_path: Path) -> None:
    dataset, output = write_run(tmp_path, images=1, size=(60, 40))
    deep = Image.new("I;16", (60, 40), 1000)
    deep.putpixel((3, 3), 4000)
    deep.save(dataset / "images" / "cell 0.png")
    (attributes,) = page_of(dataset, output).all("image")
    with Image.open(io.BytesIO(base64.b64decode(attributes["href"].split(",", 1)[1]))) as image:
        assert image.size == (60, 40)


def test_tells_what_is_mixed_up_and_missed(tmp_path: Path) -> None:
    dataset, output = write_run(tmp_path, images=3)
    rows = [
        {"image_id": 1, "category_id": 2, "bbox": [10, 20, 30, 40], "score": 0.9},  # on an RBC
        {"image_id": 2, "category_id": 1, "bbox": [150, 100, 20, 20], "score": 0.8},  # on nothing
        {"image_id": 2, "category_id": 2, "bbox": [14, 20, 30, 40], "score": 0.7},
    ]
    (output / "predictions.json").write_text(json.dumps(rows))
    page = page_of(dataset, output)
    matrix = page.text[page.text.index("True class") :]
    assert matrix.startswith("True class RBC WBC background RBC 0 0 2 WBC 0 2 0 background 1 0")
    assert "RBC predicted as WBC" not in page.text  # the WBC lies there as well, and is paired first
    assert "No object was predicted as another class." in page.text
    assert "Small under 32 x 32 px 0 0 \u2013 1 " in page.text
    assert "Medium 32 x 32 to 96 x 96 px 4 2 50 % 0 0.600" in page.text


def test_a_class_without_validation_boxes_is_pointed_at(tmp_path: Path) -> None:
    dataset, output = write_run(tmp_path)
    path = dataset / "annotations" / "instances_val.json"
    coco = json.loads(path.read_text())
    coco["categories"].append({"id": 3, "name": "Platelet"})
    path.write_text(json.dumps(coco))
    page = page_of(dataset, output)
    assert "No validation image shows “Platelet”, so its AP is unknown." in page.text
    titles = [chart["aria-label"] for chart in page.all("div") if chart.get("role") == "img"]
    assert [title for title in titles if title.startswith("Precision over recall")] == [
        f"Precision over recall, {name}" for name in ("All classes, mean", "RBC", "WBC")
    ]


def test_shows_what_the_trainer_noticed_and_how_it_chose(tmp_path: Path) -> None:
    dataset, output = write_run(tmp_path)
    trained = {
        "warnings": ["lr was <halved>", "", 7],
        "recipe": [
            {"field": "num_queries", "value": 100, "reason": "one image has 28 boxes"},
            {"field": "tiles", "value": {"a": 1}, "reason": "<i>"},
            {"value": 3},
            "text",
        ],
    }
    (output / "train.json").write_text(json.dumps(trained))
    page = page_of(dataset, output)
    assert "Warnings of the training lr was <halved> " in page.text
    assert len(page.all("li")) == 2  # the text, and that the set has few boxes
    assert "How the settings were chosen" in page.text
    assert "num_queries 100 one image has 28 boxes" in page.text
    assert 'tiles {"a": 1} <i>' in page.text
    (output / "train.json").write_text(json.dumps({"warnings": "none", "recipe": {"field": "x"}}))
    page = page_of(dataset, output)
    assert "noticed" not in page.text
    assert "How the settings were chosen" not in page.text


def test_tells_what_the_preparation_did(tmp_path: Path) -> None:
    dataset, output = write_run(tmp_path)
    report = {
        "images": {"train": 1234, "val": 4, "without_boxes": 1},
        "boxes": {"train": 5678},
        "dropped": {"box outside its image": {"count": 3, "examples": ["a.png", "b.png", "<c>.png", "d.png"]}},
        "repaired": {},
        "note": "text is skipped",
    }
    (dataset / "prepare_report.json").write_text(json.dumps(report))
    page = page_of(dataset, output)
    assert "trained on 1,234 images with 5,678 boxes" in page.text
    assert "box outside its image 3 a.png, b.png, <c>.png and 1 more" in page.text
    assert "Repaired" not in page.text
    assert "Without boxes" in page.text


@pytest.mark.parametrize(
    ("file", "step"),
    [
        ("dataset/annotations/instances_val.json", "prepare"),
        ("output/metrics.json", "evaluate"),
        ("output/predictions.json", "evaluate"),
    ],
)
def test_missing_or_broken_input_names_file_and_step(tmp_path: Path, file: str, step: str) -> None:
    dataset, output = write_run(tmp_path)
    (tmp_path / file).write_text("{[")
    with pytest.raises(StepError, match=rf"{Path(file).name} is not readable JSON .*run the {step} step again"):
        write_report(dataset, output)
    (tmp_path / file).unlink()
    with pytest.raises(StepError) as caught:
        write_report(dataset, output)
    assert str(caught.value) == f"{tmp_path / file} does not exist: the {step} step makes it, run that first"
    assert not (output / "report.html").exists()
