"""Every format says the same of the same pictures."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

import pytest

from steps.formats import cvat_xml, datumaro_json, labelme, mot, tfrecord, voc, yolo
from steps.prepare import prepare_data
from tests.steps.formats.dumps import CLASSES, PICTURES, Picture, export, painted, said, tfrecord_dump

NAMED = {
    "yolo": yolo,
    "yolo_ultralytics": yolo,
    "label_me": labelme,
    "datumaro": datumaro_json,
    "voc": voc,
    "cvat": cvat_xml,
    "tf_detection_api": tfrecord,
}
READERS = (cvat_xml, datumaro_json, labelme, mot, tfrecord, voc, yolo)


def write(folder: Path, exporter: str) -> Path:
    # datumaro writes this one by TensorFlow, which has no place here.
    return tfrecord_dump(folder) if exporter == "tf_detection_api" else export(folder, exporter)


def written_as(exporter: str) -> dict[str, Picture]:
    """The pictures by their files' names: datumaro's own format makes folders a part of the name."""
    return {picture.name.replace("/", "_") if exporter == "datumaro" else picture.name: picture for picture in PICTURES}


@pytest.mark.parametrize(("exporter", "reader"), NAMED.items())
def test_names_boxes_classes_and_subsets(tmp_path: Path, exporter: str, reader: ModuleType) -> None:
    found = said(reader, write(tmp_path / "dump", exporter))
    named = written_as(exporter)
    assert found.images.keys() == named.keys()
    for name, picture in named.items():
        expected = [(label, pytest.approx(box, abs=0.01)) for label, *box in picture.boxes]
        assert sorted((label, box) for label, *box in found.images[name]) == sorted(
            expected, key=lambda entry: entry[0]
        )
    assert found.subsets == {name: picture.subset for name, picture in named.items()}
    assert [category.name for category in found.dataset.categories][:3] == CLASSES or exporter == "label_me"
    assert found.findings == {}


def test_mot_numbers_images_by_their_place(tmp_path: Path) -> None:
    found = said(mot, export(tmp_path / "dump", "mot_seq_gt"))
    assert list(found.images) == ["000001", "000002", "000003", "000004"]
    assert list(found.images.values()) == [
        [(label, *(pytest.approx(value) for value in box)) for label, *box in picture.boxes] for picture in PICTURES
    ]
    assert found.findings == {}


@pytest.mark.parametrize("exporter", [*NAMED, "mot_seq_gt", "coco_instances"])
@pytest.mark.parametrize("inside", ["", "task 7/"])
def test_each_recognises_its_own_and_no_other(tmp_path: Path, exporter: str, inside: str) -> None:
    write(tmp_path / inside / "dump", exporter)
    own = {**NAMED, "mot_seq_gt": mot}.get(exporter)
    assert [reader for reader in READERS if reader.recognise(tmp_path)] == ([own] if own else [])


@pytest.mark.parametrize(("exporter", "reader"), [*NAMED.items(), ("mot_seq_gt", mot)])
def test_deeper_in_a_folder(tmp_path: Path, exporter: str, reader: ModuleType) -> None:
    plain = said(reader, write(tmp_path / "plain" / "dump", exporter))
    deeper = said(reader, write(tmp_path / "deep" / "dump", exporter).parent)
    assert list(deeper.images.values()) == list(plain.images.values())
    if exporter != "tf_detection_api":
        assert [deeper.dataset.root / name for name in deeper.dataset.names] == [
            path for path in (deeper.dataset.root / "dump" / name for name in plain.dataset.names) if path.is_file()
        ]


@pytest.mark.parametrize("exporter", ["label_me", "datumaro", "voc", "cvat", "mot_seq_gt"])
def test_occluded_filters(tmp_path: Path, exporter: str) -> None:
    reader = {**NAMED, "mot_seq_gt": mot}[exporter]
    found = said(reader, write(tmp_path / "dump", exporter), exclude=["occluded"])
    labels = [label for boxes in found.images.values() for label, *_ in boxes]
    assert sorted(labels) == ["bolt", "bolt", "Öse"]
    assert found.findings["skipped"] == {"box with the attribute occluded": 1}


@pytest.mark.parametrize("reader", READERS)
def test_nothing_there_is_not_recognised(tmp_path: Path, reader: ModuleType) -> None:
    (tmp_path / "notes.txt").write_text("1 2 3 4 5")
    (tmp_path / "page.xml").write_text("<html/>")
    (tmp_path / "settings.yaml").write_text("name: x")
    (tmp_path / "package.json").write_text('{"name": "x"}')
    assert reader.recognise(tmp_path) == []


@pytest.mark.parametrize("exporter", [*NAMED, "coco_instances"])
def test_prepared_sets_hold_the_pictures(tmp_path: Path, exporter: str) -> None:
    root = write(tmp_path / "dump", exporter)
    report = prepare_data(root, dump_format="")
    names = {
        picture.name.replace("/", "_") if exporter == "datumaro" else picture.name: picture for picture in PICTURES
    }
    for subset in ("train", "val"):
        document = json.loads((root / f"annotations/instances_{subset}.json").read_text(encoding="utf-8"))
        labels = {category["id"]: category["name"] for category in document["categories"]}
        found = {image["id"]: (image, []) for image in document["images"]}
        for annotation in document["annotations"]:
            found[annotation["image_id"]][1].append((labels[annotation["category_id"]], *annotation["bbox"]))
        expected = {name: picture for name, picture in names.items() if picture.subset == subset}
        assert len(found) == len(expected)
        for name, picture in expected.items():
            image, boxes = next(entry for entry in found.values() if entry[0]["file_name"].endswith(f"/{name}.png"))
            assert Path(image["file_name"]).read_bytes() == painted(picture)
            assert (image["width"], image["height"]) == picture.size
            assert sorted(boxes) == [
                (label, *(pytest.approx(value, abs=0.01) for value in box)) for label, *box in sorted(picture.boxes)
            ]
    assert report["boxes"] == {"train": 3, "val": 1}
    assert not any(report[action] for action in ("repaired", "dropped", "skipped", "lost"))


@pytest.mark.parametrize("exporter", [*NAMED, "coco_instances", "mot_seq_gt"])
def test_prepared_again_is_the_same(tmp_path: Path, exporter: str) -> None:
    root = write(tmp_path / "dump", exporter)

    def run() -> dict[str, bytes]:
        prepare_data(root, dump_format="", seed=1)
        return {str(path): path.read_bytes() for path in root.rglob("*") if path.is_file() and path.name != "lock"}

    assert run() == run()
