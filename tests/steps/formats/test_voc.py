from __future__ import annotations

from pathlib import Path

import datumaro
import numpy as np
import pytest
from PIL import Image

from steps.formats import voc
from tests.steps.formats import test_yolo
from tests.steps.formats.dumps import export, said
from tests.steps.refusals import refused


def corners(left: object, top: object, right: object, bottom: object) -> str:
    return f"<bndbox><xmin>{left}</xmin><ymin>{top}</ymin><xmax>{right}</xmax><ymax>{bottom}</ymax></bndbox>"


def thing(body: str, name: str = "bolt") -> str:
    return f"<object><name>{name}</name>{body}</object>"


def rotation(degrees: float) -> str:
    return f"<attributes><attribute><name>rotation</name><value>{degrees}</value></attribute></attributes>"


def write(root: Path, body: str, name: str = "a", filename: str = "<filename>a.jpg</filename>") -> Path:
    test_yolo.write(root, {f"JPEGImages/{name}.jpg": ""})
    path = root / f"Annotations/{name}.xml"
    path.parent.mkdir(parents=True, exist_ok=True)
    size = "<size><width>100</width><height>100</height><depth>3</depth></size>"
    path.write_text(f"<annotation>\n{filename}\n{size}\n{body}\n</annotation>", encoding="utf-8")
    return path


BOX = corners(10, 20, 30, 60)


@pytest.mark.parametrize(
    ("body", "box"),
    [
        (BOX, (10, 20, 20, 40)),
        (corners("10.5", " 20 ", "30.25", "60"), (10.5, 20, 19.75, 40)),
        (BOX + rotation(90), (0, 30, 40, 20)),
        (BOX + rotation(0), (10, 20, 20, 40)),
    ],
)
def test_boxes(tmp_path: Path, body: str, box: tuple[float, ...]) -> None:
    write(tmp_path, thing(body))
    found = said(voc, tmp_path)
    assert found.images == {"a": [("bolt", *(pytest.approx(value) for value in box))]}
    assert found.findings == {}


def test_parts_are_boxes_too(tmp_path: Path) -> None:
    write(tmp_path, thing(BOX + f"<part><name>head</name>{corners(11, 21, 15, 25)}</part>", "person"))
    assert said(voc, tmp_path).images == {"a": [("person", 10, 20, 20, 40), ("head", 11, 21, 4, 4)]}


@pytest.mark.parametrize("flag", ["difficult", "truncated", "occluded", "pose=Left", "colour=red"])
def test_attributes_filter(tmp_path: Path, flag: str) -> None:
    attributes = "<attributes><attribute><name>colour</name><value>red</value></attribute></attributes>"
    flags = "".join(f"<{name}>1</{name}>" for name in ("difficult", "truncated", "occluded"))
    write(tmp_path, thing(f"{BOX}{flags}<pose>Left</pose>{attributes}"))
    assert said(voc, tmp_path, exclude=[flag]).images == {"a": []}
    assert len(said(voc, tmp_path, exclude=["other"]).images["a"]) == 1


def test_points_are_skipped_and_nameless_dropped(tmp_path: Path) -> None:
    write(tmp_path, thing("<point><x>1</x><y>2</y></point>") + thing(BOX, ""))
    found = said(voc, tmp_path)
    assert found.images == {"a": []}
    assert found.findings == {
        "skipped": {"point, which has no box": 1},
        "dropped": {"box of an unlisted category": 1},
    }


@pytest.mark.parametrize(
    "filename", ["", "<filename/>", "<filename>other.jpg</filename>", "<filename>C:\\x\\y.jpg</filename>"]
)
def test_image_by_the_annotation_s_name(tmp_path: Path, filename: str) -> None:
    write(tmp_path, thing(BOX), filename=filename)
    found = said(voc, tmp_path)
    assert found.dataset.names == ["JPEGImages/a.jpg"]
    assert found.findings == (
        {"repaired": {"image found by the name of its annotation file": 1}} if ".jpg" in filename else {}
    )


def test_base_name_in_two_folders(tmp_path: Path) -> None:
    write(tmp_path, thing(BOX), "one/a")
    write(tmp_path, thing(BOX, "nut"), "two/a")
    dataset = said(voc, tmp_path).dataset
    assert dataset.names == ["JPEGImages/one/a.jpg", "JPEGImages/two/a.jpg"]


class TestSubsets:
    @pytest.fixture
    def dump(self, tmp_path: Path) -> Path:
        for name in ("a", "b", "c d"):
            write(tmp_path, thing(BOX), name, f"<filename>{name}.jpg</filename>")
        return tmp_path

    @pytest.mark.parametrize(
        ("lists", "subsets"),
        [
            ({"train": "a\nb\n", "val": "c d\n"}, ["train", "train", "val"]),
            ({"train": "a\r\n# note\r\nb", "val": '"c d"'}, ["train", "train", "val"]),
            ({"train": "a\nb", "val": "c d", "trainval": "a\nb\nc d"}, ["train", "train", "val"]),
            ({"train": "a\nb", "val": "c d", "bolt_train": "a  1\nb -1"}, ["train", "train", "val"]),
            ({"train": "a"}, ["train", "", ""]),
            ({}, ["", "", ""]),
        ],
    )
    def test_lists(self, dump: Path, lists: dict[str, str], subsets: list[str]) -> None:
        test_yolo.write(dump, {f"ImageSets/Main/{name}.txt": text for name, text in lists.items()})
        assert said(voc, dump).dataset.subsets == subsets

    def test_listed_without_annotations(self, dump: Path) -> None:
        test_yolo.write(dump, {"ImageSets/Main/train.txt": "a\nempty\n", "JPEGImages/empty.jpg": ""})
        found = said(voc, dump)
        assert found.dataset.names[-1] == "JPEGImages/empty.jpg"
        assert found.images["empty"] == []


def test_flat_dump(tmp_path: Path) -> None:
    path = write(tmp_path, thing(BOX))
    path.rename(tmp_path / "a.xml")
    path.parent.rmdir()
    assert voc.recognise(tmp_path)
    assert said(voc, tmp_path).images == {"a": [("bolt", 10, 20, 20, 40)]}


def test_label_map_orders_and_leaves_out_the_background(tmp_path: Path) -> None:
    write(tmp_path, thing(BOX))
    (tmp_path / "labelmap.txt").write_text("# label:color_rgb:parts:actions\nbackground:0,0,0::\nnut:::\nbolt:::\n")
    assert [category.name for category in said(voc, tmp_path).dataset.categories] == ["nut", "bolt"]


class TestMasks:
    @pytest.fixture
    def dump(self, tmp_path: Path) -> Path:
        """By datumaro: a box and two masks in one image, one of them of the box's object."""
        nut, eye = np.zeros((48, 64), bool), np.zeros((48, 64), bool)
        nut[3:10, 20:41] = True
        eye[20:30, 2:5] = True
        drawn = [datumaro.Bbox(20, 3, 20, 7, label=1), datumaro.Mask(nut, label=1), datumaro.Mask(eye, label=2)]
        return export(tmp_path / "dump", "voc", {"a": drawn, "c.2": [datumaro.Mask(nut[:30, :40], label=0)]})

    def test_become_boxes_once(self, dump: Path) -> None:
        found = said(voc, dump)
        assert found.images["a"] == [("wing nut", 20, 3, 20, 7), ("Öse", 2, 20, 3, 10)]
        assert found.images["c.2"] == [("bolt", 20, 3, 20, 7)]
        assert found.findings == {"skipped": {"mask of an object that also has a box": 1}}

    def test_colours_of_the_label_map(self, dump: Path) -> None:
        # The palette's colours of 1, 2 and 3, given to the classes in another order.
        (dump / "labelmap.txt").write_text("wing nut:128,0,0::\nÖse:0,128,0::\nbolt:128,128,0::\n", encoding="utf-8")
        assert said(voc, dump).images["c.2"] == [("wing nut", 20, 3, 20, 7)]

    def test_colour_of_no_class_is_dropped(self, dump: Path) -> None:
        (dump / "labelmap.txt").write_text("bolt:1,2,3::\n")
        assert said(voc, dump).findings["dropped"] == {"box of an unlisted category": 3}

    def test_dump_of_masks_alone(self, dump: Path) -> None:
        for path in (dump / "Annotations").iterdir():
            path.unlink()
        assert voc.recognise(dump) == [dump / "ImageSets/Main/train.txt", dump / "ImageSets/Main/val.txt"]
        assert said(voc, dump).images["a"] == [("Öse", 2, 20, 3, 10), ("wing nut", 20, 3, 21, 7)]

    def test_half_a_pair_is_skipped(self, dump: Path) -> None:
        (dump / "SegmentationClass/c.2.png").unlink()
        found = said(voc, dump)
        assert found.images["c.2"] == []
        assert found.findings["skipped"]["mask of classes or of objects alone, which has no box"] == 1

    def test_unreadable(self, dump: Path) -> None:
        (dump / "SegmentationClass/c.2.png").write_text("no image")
        with refused(dump / "SegmentationClass/c.2.png", "not readable as a mask"):
            said(voc, dump)

    def test_of_different_sizes(self, dump: Path) -> None:
        Image.new("RGB", (3, 3)).save(dump / "SegmentationClass/c.2.png")
        with refused("have different sizes", "dump the task again"):
            said(voc, dump)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (thing(""), ["line 4: <object> has no <bndbox>"]),
        (thing(corners(1, 2, 3, 4).replace("xmin", "x")), ["line 4: <bndbox> has no <xmin>"]),
        (thing(corners(1, "2;5", 3, 4)), ["line 4: <ymin> is '2;5', expected a number"]),
        ("<object>", ["line 5: not readable XML (mismatched tag)"]),
        ("<a>" * 40, ["line 4: elements are nested too deeply"]),
        ("\0", ["line 4: not readable XML"]),
    ],
)
def test_malformed(tmp_path: Path, body: str, words: list[str]) -> None:
    path = write(tmp_path, body)
    with refused(path, *words, "dump the task again"):
        said(voc, tmp_path)


@pytest.mark.parametrize(
    "declared",
    [
        '<!DOCTYPE x [<!ENTITY a "b">]>',
        '<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]>',
        '<!DOCTYPE x SYSTEM "http://example.com/x.dtd">',
        '<!DOCTYPE x [<!ENTITY a "0123456789"><!ENTITY b "&a;&a;&a;&a;"><!ENTITY c "&b;&b;&b;&b;">]>',
    ],
)
def test_entities_are_refused(tmp_path: Path, declared: str) -> None:
    path = write(tmp_path, thing(BOX))
    path.write_text(f"{declared}\n{path.read_text().replace('bolt', '&a;')}")
    assert voc.recognise(tmp_path) == [path]
    with refused(path, "declares a document type or entities", "remove the <!DOCTYPE"):
        said(voc, tmp_path)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "latin-1"])
def test_encodings(tmp_path: Path, encoding: str) -> None:
    path = write(tmp_path, thing(BOX, "Öse"))
    declared = {"latin-1": "iso-8859-1"}.get(encoding, encoding.removesuffix("-sig"))
    path.write_text(
        f'<?xml version="1.0" encoding="{declared}"?>' + path.read_text(encoding="utf-8"), encoding=encoding
    )
    assert said(voc, tmp_path).images == {"a": [("Öse", 10, 20, 20, 40)]}


@pytest.mark.parametrize("encoding", ["klingon", "utf-7", "idna"])
def test_encoding_that_is_none(tmp_path: Path, encoding: str) -> None:
    path = write(tmp_path, thing(BOX))
    path.write_text(f'<?xml version="1.0" encoding="{encoding}"?>' + path.read_text())
    with refused(path, "not readable XML"):
        said(voc, tmp_path)
