"""The files, read by those that they are for."""

from __future__ import annotations

import csv
import json
import shutil
import zipfile
from pathlib import Path
from types import ModuleType
from typing import Any

import datumaro
import pytest
from defusedxml import ElementTree
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from steps.dataset.findings import Findings
from steps.dataset.model import Dataset
from steps.formats import coco, cvat_xml
from steps.predict import predict_images
from steps.predictions.coco import write_instances
from steps.predictions.cvat_xml import write_images
from steps.predictions.predicted import Predicted, Predictions
from tests.steps.predictions.conftest import Found, found_on

ZIPS = {"cvat_coco.zip": (coco, "coco_instances"), "cvat_images.zip": (cvat_xml, "cvat")}


@pytest.fixture
def found(run: Path, photos: Path, tmp_path: Path) -> Found:
    """What the model finds, after it has been written to `tmp_path / "out"`."""
    predict_images(str(run), str(photos), tmp_path / "out", threshold=0)
    found = found_on(run, photos)
    assert sum(map(len, found.values())) == 66
    return found


def unpacked(archive: Path, folder: Path) -> Path:
    with zipfile.ZipFile(archive) as zipped:
        zipped.extractall(folder)
    return folder


def imported(archive: Path, kind: str, images: Path, folder: Path) -> datumaro.Dataset:
    """A zip as datumaro reads it, which wants the images beside it; CVAT's own edition of it does not."""
    shutil.copytree(images, folder / "images")
    return datumaro.Dataset.import_from(str(unpacked(archive, folder)), kind)


def labels(dataset: datumaro.Dataset) -> list[str]:
    return [label.name for label in dataset.categories()[datumaro.AnnotationType.label]]


def near(boxes: list[Any]) -> list[Any]:
    """As numbers that went through batches of other sizes, and through two decimals."""
    return [(name, pytest.approx(score, abs=1e-4), pytest.approx(box, abs=0.02)) for name, score, box in boxes]


@pytest.mark.parametrize("name", ZIPS)
def test_the_zips_are_dumps_to_our_own_readers(found: Found, photos: Path, tmp_path: Path, name: str) -> None:
    reader: ModuleType = ZIPS[name][0]
    dataset = Dataset(unpacked(tmp_path / "out" / name, photos), Findings())
    reader.read(photos, dataset)
    rows = dataset.boxes()
    read: dict[str, list[Any]] = {each: [] for each in dataset.names}
    for image, category, (x, y, width, height) in zip(rows.image, rows.category, rows.xywh.tolist(), strict=True):
        read[dataset.names[image]].append((dataset.categories[category].name, [x, y, x + width, y + height]))
    assert read == {each: [(label, box) for label, _, box in near(boxes)] for each, boxes in found.items()}
    if reader is coco:
        assert {category.id: category.name for category in dataset.categories} == {4: "nut", 17: "bolt"}


@pytest.mark.parametrize("name", ZIPS)
def test_the_zips_are_datasets_to_datumaro(found: Found, photos: Path, tmp_path: Path, name: str) -> None:
    """With names without suffix, by which CVAT pairs images, and the attributes that CVAT is given."""
    dataset = imported(tmp_path / "out" / name, ZIPS[name][1], photos, tmp_path / "in")
    classes = labels(dataset)
    assert {
        f"{item.id}.png": [
            (classes[box.label], box.attributes["score"], [float(side) for side in box.points])
            for box in sorted(item.annotations, key=lambda box: -box.attributes["score"])
        ]
        for item in dataset
    } == {each: near(boxes) for each, boxes in found.items()}
    if name == "cvat_coco.zip":
        assert {box.attributes["source"] for item in dataset for box in item.annotations} == {"auto"}


def test_the_results_are_coco_s(found: Found, tmp_path: Path) -> None:
    images = COCO(str(tmp_path / "out" / "image_info.json"))
    results = images.loadRes(str(tmp_path / "out" / "coco_results.json"))
    names = {image["id"]: image["file_name"] for image in results.loadImgs(results.getImgIds())}
    classes = {category["id"]: category["name"] for category in results.loadCats(results.getCatIds())}
    read: dict[str, list[Any]] = {name: [] for name in names.values()}
    for row in results.loadAnns(results.getAnnIds()):
        x, y, width, height = row["bbox"]
        box = (classes[row["category_id"]], row["score"], [x, y, x + width, y + height])
        read[names[row["image_id"]]].append(box)
    assert read == {each: near(boxes) for each, boxes in found.items()}
    rows = json.loads((tmp_path / "out" / "coco_results.json").read_bytes())
    assert {frozenset(row) for row in rows} == {frozenset(("image_id", "category_id", "bbox", "score"))}

    # Of the same images and classes as the file for CVAT: measured against that, nothing is wrong.
    unpacked(tmp_path / "out" / "cvat_coco.zip", tmp_path / "in")
    truth = COCO(str(tmp_path / "in" / "annotations" / "instances_default.json"))
    evaluation = COCOeval(truth, results, "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    assert evaluation.stats[0] == pytest.approx(1)


def test_the_table_has_a_row_for_each_box(found: Found, tmp_path: Path) -> None:
    with (tmp_path / "out" / "predictions.csv").open(encoding="utf-8", newline="") as file:
        header, *rows = csv.reader(file)
    assert header == ["image", "class", "score", "x1", "y1", "x2", "y2"]
    written = [(name, label, float(score), [float(side) for side in box]) for name, label, score, *box in rows]
    assert written == [(name, *box) for name, boxes in found.items() for box in near(boxes)]


def test_names_of_any_kind_arrive(tmp_path: Path) -> None:
    """Whatever XML, JSON and CVAT's own parsers make of them."""
    names = ["a&b <c>.jpg", 'line "1"/é 図.png', "dots.in.name.jpg"]
    classes = ["R&D <x>", "Öse 'n\"", "図"]
    images = [Predicted(name, 40, 30, [(label, 0.5, [1.0, 2.0, 10.25, 20.5])]) for label, name in enumerate(names)]
    for name in names:
        (tmp_path / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 30)).save(tmp_path / "images" / name)
    for write, kind in ((write_instances, "coco_instances"), (write_images, "cvat")):
        write(Predictions(classes, [3, 1, 2], images), tmp_path / "a.zip")
        dataset = imported(tmp_path / "a.zip", kind, tmp_path / "images", tmp_path / kind)
        found = {item.id: labels(dataset)[item.annotations[0].label] for item in dataset}
        assert found == {name.rpartition(".")[0]: label for name, label in zip(names, classes, strict=True)}


def test_ids_of_the_xml_are_those_of_no_frame_but_of_a_video_s_own(tmp_path: Path) -> None:
    """CVAT takes the id for a frame's number where the name is none of the task's: boxes went to other images."""
    images = [Predicted("a.jpg", 4, 3, []), Predicted("frame_000007.PNG", 4, 3, [], frame=7)]
    write_images(Predictions(["nut"], [1], images), tmp_path / "a.zip")
    ids = [
        int(image.attrib["id"])
        for image in ElementTree.parse(unpacked(tmp_path / "a.zip", tmp_path) / "annotations.xml").iter("image")
    ]
    assert ids[0] >= 10**9
    assert ids[1] == 7
