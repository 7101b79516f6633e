"""Every kind of dirt in a dump: what becomes of it, and that the report and the log say so."""

from __future__ import annotations

import json
import logging
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

from steps.dataset.findings import EXAMPLES
from steps.preparation.image_headers import MOST_PIXELS
from steps.prepare import prepare_data
from tests.steps.refusals import refused

SIZE = (64, 48)


class Dump:
    """A COCO dump to make dirty: `document` is written when it is prepared."""

    def __init__(self, root: Path, images: int = 4) -> None:
        self.root = root
        self.document: dict[str, Any] = {
            "images": [],
            "annotations": [],
            "categories": [{"id": 1, "name": "bolt"}, {"id": 2, "name": "nut"}],
        }
        self.bytes: Callable[[bytes], bytes] = lambda content: content
        for index in range(images):
            self.add(f"{'abcdefgh'[index]}.png")

    def add(
        self, name: str, file: str | None = None, image: Image.Image | None = None, **options: Any
    ) -> dict[str, Any]:
        """List an image with a box of either class; write its file unless `file` is empty."""
        number = len(self.document["images"]) + 1
        listed = {"id": number, "file_name": name, "width": SIZE[0], "height": SIZE[1]}
        self.document["images"].append(listed)
        for category in (1, 2):
            self.box(number, [10 * category, 5, 8, 6], category_id=category)
        if file != "":
            path = self.root / "images" / (file or name)
            path.parent.mkdir(parents=True, exist_ok=True)
            (image or Image.new("RGB", SIZE, (90, 20 * number, 60))).save(path, **options)
        return listed

    def box(self, image: Any, bbox: Any, category_id: Any = 1, **more: Any) -> dict[str, Any]:
        boxes = self.document["annotations"]
        boxes.append({"id": len(boxes) + 1, "image_id": image, "category_id": category_id, "bbox": bbox, **more})
        return boxes[-1]

    def write(self, subset: str = "default") -> None:
        path = self.root / "annotations" / f"instances_{subset}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(self.bytes(json.dumps(self.document).encode()))

    def prepare(self, **arguments: Any) -> dict[str, Any]:
        self.write()
        return prepare_data(self.root, **arguments)

    def boxes(self) -> dict[str, list[list[float]]]:
        """The prepared boxes `[category, x, y, width, height]` by the image's path in `images`."""
        found: dict[str, list[list[float]]] = {}
        for subset in ("train", "val"):
            document = json.loads((self.root / "annotations" / f"instances_{subset}.json").read_text())
            files = {image["id"]: image["file_name"] for image in document["images"]}
            for file in files.values():
                found[Path(file).relative_to(self.root / "images").as_posix()] = []
            for box in document["annotations"]:
                name = Path(files[box["image_id"]]).relative_to(self.root / "images").as_posix()
                found[name].append([box["category_id"], *box["bbox"]])
        return found

    def sizes(self) -> dict[str, tuple[int, int]]:
        documents = [
            json.loads((self.root / "annotations" / f"instances_{subset}.json").read_text())
            for subset in ("train", "val")
        ]
        return {
            Path(image["file_name"]).name: (image["width"], image["height"])
            for document in documents
            for image in document["images"]
        }


PLAIN = [[1, 10, 5, 8, 6], [2, 20, 5, 8, 6]]


@pytest.fixture
def dump(tmp_path: Path) -> Dump:
    return Dump(tmp_path / "dataset")


def only(report: dict[str, Any], action: str, what: str, count: int = 1, *examples: str) -> None:
    """Check that the report has this finding and, but for examples, no other that changes the data."""
    counts = {
        (action, what): found["count"]
        for action in ("repaired", "dropped", "skipped", "lost")
        for what, found in report[action].items()
    }
    assert (report["noted"][what]["count"] if action == "noted" else counts.pop((action, what))) == count
    assert not counts
    if examples:
        assert report[action][what]["examples"] == list(examples)


class TestReport:
    def test_clean_dump_has_nothing_to_report(self, dump: Dump) -> None:
        report = dump.prepare()
        assert not any(report[action] for action in ("repaired", "dropped", "skipped", "lost", "noted"))
        assert list(dump.boxes().values()) == [PLAIN] * 4

    def test_first_few_by_name_then_a_count(self, dump: Dump, caplog: pytest.LogCaptureFixture) -> None:
        for number in range(50):
            dump.box(number % 4 + 1, [100 + number, 0, 5, 5])
        with caplog.at_level(logging.INFO):
            report = dump.prepare()
        only(report, "dropped", "box outside its image", 50, *(f"images/{name}.png: bolt" for name in "abcd"))
        shown = "images/a.png: bolt, images/b.png: bolt, images/c.png: bolt and 47 more"
        assert f"dropped: 50 x box outside its image ({shown})" in caplog.text
        assert json.loads((dump.root / "prepare_report.json").read_text()) == report

    def test_names_in_the_report_end(self, dump: Dump) -> None:
        for number in range(EXAMPLES + 5):
            dump.box(1, [1, 1, 5, 5], category_id=100 + number)
        found = dump.prepare()["dropped"]["box of an unlisted category"]
        assert found["count"] == EXAMPLES + 5
        assert len(found["examples"]) == EXAMPLES

    def test_names_cannot_write_lines_of_their_own(self, dump: Dump, caplog: pytest.LogCaptureFixture) -> None:
        dump.document["categories"].append({"id": 3, "name": "evil\n\x1b[31mAP 1.0"})
        with caplog.at_level(logging.INFO):
            report = dump.prepare()
        assert report["noted"]["category without a box"]["examples"] == ["evil\ufffd\ufffd[31mAP 1.0"]
        assert all("\n" not in record.getMessage() and "\x1b" not in record.getMessage() for record in caplog.records)


class TestBoxes:
    @pytest.mark.parametrize("constant", ["NaN", "Infinity", "-Infinity"])
    @pytest.mark.parametrize("place", range(4))
    def test_not_finite(self, dump: Dump, constant: str, place: int) -> None:
        bbox = [1.0, 2.0, 3.0, 4.0]
        bbox[place] = float(constant.replace("Infinity", "inf"))
        dump.box(1, bbox)
        report = dump.prepare()
        assert report["dropped"]["box with NaN or infinite numbers"] == {"count": 1, "examples": ["images/a.png: bolt"]}
        assert report["repaired"]["annotation file with NaN or Infinity, which JSON does not allow"]["count"] == 1
        assert dump.boxes()["a.png"] == PLAIN

    def test_too_large_for_a_float(self, dump: Dump) -> None:
        dump.box(1, [1e308, 0, 1e308, 5])
        only(dump.prepare(), "dropped", "box with NaN or infinite numbers", 1, "images/a.png: bolt")

    @pytest.mark.parametrize(("width", "height"), [(0, 5), (5, 0), (-5, 5), (5, -5), (1e-7, 5)])
    def test_without_size(self, dump: Dump, width: float, height: float) -> None:
        dump.box(1, [20, 20, width, height])
        only(dump.prepare(), "dropped", "box without width or height", 1, "images/a.png: bolt")
        assert dump.boxes()["a.png"] == PLAIN

    def test_partly_outside(self, dump: Dump) -> None:
        dump.box(1, [-3, 40, 10, 20])
        only(dump.prepare(), "repaired", "box clipped to its image", 1, "images/a.png: bolt")
        assert dump.boxes()["a.png"][-1] == [1, 0, 40, 7, 8]

    @pytest.mark.parametrize("bbox", [[64, 0, 5, 5], [0, 48, 5, 5], [-5, 0, 5, 5], [0, -50, 5, 5]])
    def test_wholly_outside(self, dump: Dump, bbox: list[float]) -> None:
        dump.box(1, bbox)
        only(dump.prepare(), "dropped", "box outside its image", 1, "images/a.png: bolt")

    def test_as_text(self, dump: Dump) -> None:
        dump.box(1, ["30", " 20.5", "3", "1e1"])
        only(dump.prepare(), "repaired", "box written as text", 1, "a.png")
        assert dump.boxes()["a.png"][-1] == [1, 30, 20.5, 3, 10]

    def test_not_numbers(self, dump: Dump) -> None:
        for bbox in (["a", "b", "c", "d"], [1, 2, 3], "1,2,3,4", [[1], [2], [3], [4]], {"x": 1}):
            dump.box(1, bbox)
        examples = [f"annotations/instances_default.json: annotations[{8 + place}]" for place in (1, 2, 4)]
        report = dump.prepare()
        only(report, "dropped", "box that is not four numbers", 5)
        assert set(examples) <= set(report["dropped"]["box that is not four numbers"]["examples"])

    def test_duplicates(self, dump: Dump) -> None:
        for _ in range(2):
            dump.box(1, [10, 5, 8.0001, 6])
        dump.box(1, [10, 5, 8, 6], category_id=2)
        dump.box(2, [10, 5, 8, 7])
        only(dump.prepare(), "dropped", "duplicate of another box", 2, "images/a.png: bolt")
        assert dump.boxes()["a.png"] == [*PLAIN, [2, 10, 5, 8, 6]]
        assert len(dump.boxes()["b.png"]) == 3

    @pytest.mark.parametrize("value", [1, True, "1", 1.0])
    def test_crowd(self, dump: Dump, value: Any) -> None:
        dump.box(1, [0, 0, 30, 30], iscrowd=value)
        for other in (0, None, False, "0"):
            dump.box(2, [0, 0, 10 + len(dump.document["annotations"]), 9], iscrowd=other)
        what = "crowd region (iscrowd): kept as one, not trained on"
        only(dump.prepare(), "noted", what, 1, "images/a.png: bolt")
        written = [
            box
            for subset in ("train", "val")
            for box in json.loads((dump.root / "annotations" / f"instances_{subset}.json").read_text())["annotations"]
        ]
        assert [box["bbox"] for box in written if box["iscrowd"]] == [[0, 0, 30, 30]]

    @pytest.mark.parametrize(
        ("segmentation", "expected"),
        [
            ([[5, 6, 15, 6, 15, 30]], [5, 6, 10, 24]),
            ([[5, 6, 15, 6, 15, 30], [40, 7, 41, 7, 41, 8]], [5, 6, 36, 24]),
            ({"size": [48, 64], "counts": [48 * 3 + 4, 5, 43, 5, 48 * 59 + 39]}, [3, 4, 2, 5]),
        ],
    )
    def test_only_a_segmentation(self, dump: Dump, segmentation: Any, expected: list[float]) -> None:
        dump.box(1, None, segmentation=segmentation)
        dump.box(1, [], segmentation=[[]])
        del dump.box(1, 0, segmentation=[], keypoints=[1, 2, 2])["bbox"]
        report = dump.prepare()
        assert report["repaired"]["box computed from its segmentation"]["count"] == 1
        assert report["dropped"]["box that is not four numbers"]["count"] == 1
        assert report["skipped"]["points: they have no box"]["count"] == 1
        assert dump.boxes()["a.png"] == [*PLAIN, [1, *expected]]

    @pytest.mark.parametrize(
        ("exclude", "left", "finding"),
        [
            ("occluded", [[1, 30, 20, 5, 5], [1, 40, 20, 5, 5]], "box with the attribute occluded"),
            (" size = small ,", [[1, 20, 20, 5, 5], [1, 40, 20, 5, 5]], "box with the attribute size=small"),
        ],
    )
    def test_left_out_by_attribute(
        self, dump: Dump, exclude: str, left: list[list[float]], finding: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        dump.box(1, [20, 20, 5, 5], attributes={"occluded": True, "size": "big"})
        dump.box(1, [30, 20, 5, 5], attributes={"occluded": False, "size": "small"})
        dump.box(1, [40, 20, 5, 5], attributes={"occluded": "0"})
        only(dump.prepare(exclude=exclude), "skipped", finding, 1, "a.png")
        assert dump.boxes()["a.png"] == [*PLAIN, *left]
        assert "no box has that attribute" not in caplog.text

    def test_attribute_that_no_box_has(self, dump: Dump, caplog: pytest.LogCaptureFixture) -> None:
        dump.box(1, [20, 20, 5, 5], attributes={"occluded": True})
        dump.prepare(exclude="ocluded")
        assert "--exclude names ocluded, but no box has that attribute; there are: occluded" in caplog.text


class TestReferences:
    @pytest.mark.parametrize("number", [99, None, "x", 1.5, True, [1], {}])
    def test_unknown_image(self, dump: Dump, number: Any) -> None:
        dump.box(number, [1, 1, 5, 5])
        where = "annotations/instances_default.json: annotations[8]"
        only(dump.prepare(), "dropped", "box of an unlisted image", 1, where)

    @pytest.mark.parametrize("number", [99, None, "bolt"])
    def test_unknown_category(self, dump: Dump, number: Any) -> None:
        dump.box(1, [1, 1, 5, 5], category_id=number)
        where = "annotations/instances_default.json: annotations[8]"
        only(dump.prepare(), "dropped", "box of an unlisted category", 1, where)

    def test_ids_as_text_and_fractions(self, dump: Dump) -> None:
        dump.box("1", [30, 30, 5, 5], category_id="2")
        dump.box(1.0, [40, 30, 5, 5])
        report = dump.prepare()
        assert report["repaired"]["id written as text"]["count"] == 2
        assert report["repaired"]["id written as a fraction"]["count"] == 1
        assert dump.boxes()["a.png"][2:] == [[2, 30, 30, 5, 5], [1, 40, 30, 5, 5]]

    def test_annotation_ids_used_twice(self, dump: Dump) -> None:
        for box in dump.document["annotations"]:
            box["id"] = 7
        where = "annotations/instances_default.json: id 7"
        only(dump.prepare(), "repaired", "annotation id used twice, renumbered", 7, where)
        assert list(dump.boxes().values()) == [PLAIN] * 4

    def test_image_listed_twice(self, dump: Dump) -> None:
        dump.document["images"].append(dict(dump.document["images"][0]))
        only(dump.prepare(), "repaired", "image listed twice", 1, "a.png")
        assert dump.boxes()["a.png"] == PLAIN

    def test_image_listed_under_two_ids(self, dump: Dump) -> None:
        dump.document["images"].append({**dump.document["images"][0], "id": 77})
        dump.box(77, [30, 30, 5, 5])
        dump.prepare()
        assert dump.boxes()["a.png"] == [*PLAIN, [1, 30, 30, 5, 5]]

    def test_two_images_of_one_id(self, dump: Dump) -> None:
        dump.document["images"][1]["id"] = 1
        dump.write()
        with refused("instances_default.json", "'a.png' and 'b.png' have the same id 1"):
            dump.prepare()


class TestCategories:
    def test_same_name(self, dump: Dump) -> None:
        dump.document["categories"].append({"id": 3, "name": "bolt"})
        dump.box(1, [30, 30, 5, 5], category_id=3)
        only(dump.prepare(), "repaired", "categories of one name made one", 1, "bolt")
        assert dump.boxes()["a.png"] == [*PLAIN, [1, 30, 30, 5, 5]]

    def test_listed_twice(self, dump: Dump) -> None:
        dump.document["categories"].append(dict(dump.document["categories"][0]))
        only(dump.prepare(), "repaired", "category listed twice", 1, "bolt")

    def test_two_of_one_id(self, dump: Dump) -> None:
        dump.document["categories"].append({"id": 1, "name": "washer"})
        with refused("instances_default.json", "'bolt' and 'washer' have the same id 1"):
            dump.prepare()

    def test_never_used(self, dump: Dump) -> None:
        dump.document["categories"].append({"id": 9, "name": "washer"})
        report = dump.prepare()
        only(report, "noted", "category without a box", 1, "washer")
        assert report["classes"]["washer"] == {"train": 0, "val": 0}
        document = json.loads((dump.root / "annotations" / "instances_train.json").read_text())
        assert [category["name"] for category in document["categories"]] == ["bolt", "nut", "washer"]

    def test_named_by_a_number(self, dump: Dump) -> None:
        dump.document["categories"][0]["name"] = 5
        report = dump.prepare()
        only(report, "repaired", "category named by a number", 1, "5")
        assert set(report["classes"]) == {"5", "nut"}

    def test_one_class(self, dump: Dump) -> None:
        dump.document["categories"].pop()
        dump.document["annotations"] = [box for box in dump.document["annotations"] if box["category_id"] == 1]
        report = dump.prepare()
        assert report["classes"] == {"bolt": {"train": 3, "val": 1}}


class TestAnnotationFile:
    def test_byte_order_mark(self, dump: Dump) -> None:
        dump.bytes = lambda content: b"\xef\xbb\xbf" + content
        where = "annotations/instances_default.json"
        only(dump.prepare(), "repaired", "annotation file with a byte order mark", 1, where)

    def test_half_of_a_surrogate_pair(self, dump: Dump) -> None:
        dump.document["categories"][0]["name"] = "bolt\ud800"
        assert set(dump.prepare()["classes"]) == {"bolt\ufffd", "nut"}

    def test_two_files_that_disagree(self, dump: Dump) -> None:
        """Boxes of a class of an image are the first file's; what only one file has is kept."""
        dump.write("a")
        dump.document["annotations"][0]["bbox"] = [11, 6, 8, 6]
        dump.document["annotations"].pop(3)
        dump.document["categories"].append({"id": 3, "name": "washer"})
        dump.box(1, [30, 30, 5, 5], category_id=3)
        dump.write("b")
        report = prepare_data(dump.root)
        what = "box of an image and class that an earlier annotation file also has"
        assert report["dropped"][what] == {"count": 1, "examples": ["images/a.png: bolt"]}
        assert report["dropped"]["duplicate of another box"]["count"] == 6
        assert dump.boxes() == {
            "a.png": [*PLAIN, [3, 30, 30, 5, 5]], "b.png": PLAIN, "c.png": PLAIN, "d.png": PLAIN,
        }  # fmt: skip

    def test_one_image_in_two_subsets(self, dump: Dump) -> None:
        dump.write("train")
        dump.document["images"] = dump.document["images"][:1]
        dump.add("v.png")
        dump.write("val")
        report = prepare_data(dump.root)
        assert report["repaired"]["image in two subsets, kept in the first"]["examples"] == ["a.png"]
        assert report["images"] == {"train": 4, "val": 1, "without_boxes": 0}

    def test_empty_dataset(self, dump: Dump) -> None:
        dump.document["images"], dump.document["annotations"] = [], []
        with refused("instances_default.json", "lists no image"):
            dump.prepare()

    def test_no_boxes(self, dump: Dump) -> None:
        dump.document["annotations"] = []
        with refused("instances_default.json", "has no boxes", "annotate some objects"):
            dump.prepare()

    def test_one_image(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        report = Dump(tmp_path, images=1).prepare()
        assert report["images"] == {"train": 1, "val": 1, "without_boxes": 0}
        assert report["validated_on_training_set"] is True
        assert "validating on the training images" in caplog.text


class TestNames:
    """An image's name in the annotations, and its file's."""

    def check(self, dump: Dump, name: str, file: str, what: str = "") -> None:
        dump.add(name, file)
        report = dump.prepare()
        assert dump.boxes()[file] == PLAIN
        if what:
            only(report, "repaired", what, 1, name)
        else:
            assert not any(report[action] for action in ("repaired", "dropped", "skipped", "lost", "noted"))

    @pytest.mark.parametrize(
        "name",
        ["a b.png", "a#1.png", "100%.png", "100%25.png", "it's.png", 'say "x".png', "ä ö.png", "a..b.png", "猫.png",
         "a?b=1&c.png", "a\u202fb.png", "x.tar.png", "(1).png", "a;b,c.png", "$HOME.png", "~.png", "-rf.png"],
    )  # fmt: skip
    def test_odd_but_right(self, dump: Dump, name: str) -> None:
        self.check(dump, name, name)

    @pytest.mark.parametrize(("written", "lies"), [("NFC", "NFD"), ("NFD", "NFC")])
    def test_other_unicode_form(self, dump: Dump, written: Any, lies: Any) -> None:
        name, file = (unicodedata.normalize(form, "schön/größe é.png") for form in (written, lies))
        assert name != file
        self.check(dump, name, file, "name whose Unicode form differs from the file's")

    @pytest.mark.parametrize(("name", "file"), [("x.png", "x.PNG"), ("X.PNG", "x.png"), ("Kopf/ü.png", "Kopf/Ü.PNG")])
    def test_other_case(self, dump: Dump, name: str, file: str) -> None:
        self.check(dump, name, file, "name whose case differs from the file's")

    def test_upper_case_extension(self, dump: Dump) -> None:
        self.check(dump, "X.JPG", "X.JPG")

    def test_case_tells_two_files_apart(self, dump: Dump) -> None:
        if (dump.root / "images" / "A.PNG").exists():
            pytest.skip("this file system knows no case")
        dump.add("A.png")
        dump.prepare()
        assert dump.boxes()["A.png"] == dump.boxes()["a.png"] == PLAIN

    def test_case_tells_two_files_of_another_machine_apart(self, dump: Dump) -> None:
        if (dump.root / "images" / "A.PNG").exists():
            pytest.skip("this file system knows no case")
        dump.add("/home/me/A.png", "A.png")
        dump.document["annotations"][-1]["bbox"] = [30, 30, 5, 5]
        dump.prepare()
        assert dump.boxes()["A.png"] == [PLAIN[0], [2, 30, 30, 5, 5]]

    def test_case_that_leaves_two_files(self, dump: Dump) -> None:
        if (dump.root / "images" / "A.PNG").exists():
            pytest.skip("this file system knows no case")
        dump.add("q.PNG")
        dump.add("Q.png")
        dump.add("q.png", "")
        with refused("instances_default.json", "'q.png' can be images/Q.png, images/q.PNG"):
            dump.prepare()

    def test_backslashes(self, dump: Dump) -> None:
        self.check(dump, "sub\\x.png", "sub/x.png", "name with backslashes")

    @pytest.mark.parametrize(
        "name", ["C:\\Users\\me\\images\\x.png", "d:/data/x.png", "\\\\server\\share\\x.png", "/home/me/x.png"]
    )
    def test_path_of_another_machine(self, dump: Dump, name: str) -> None:
        self.check(dump, name, "x.png", "name that is a path on another machine")

    def test_without_suffix(self, dump: Dump) -> None:
        self.check(dump, "sub/x.1", "sub/x.1.png")

    def test_one_base_name_in_two_folders(self, dump: Dump) -> None:
        for number, folder in enumerate(("left", "right", "right/deep")):
            dump.add(f"{folder}/a.png")
            dump.document["annotations"][-1]["bbox"] = [30, 30, 5 + number, 5]
        report = dump.prepare()
        assert [dump.boxes()[f"{folder}/a.png"][-1] for folder in ("left", "right", "right/deep")] == [
            [2, 30, 30, 5, 5], [2, 30, 30, 6, 5], [2, 30, 30, 7, 5],
        ]  # fmt: skip
        assert dump.boxes()["a.png"] == PLAIN
        assert not report["repaired"]

    def test_one_base_name_where_one_is_absent(self, dump: Dump) -> None:
        dump.add("left/a.png", "")
        report = dump.prepare(max_lost=100)
        assert report["dropped"]["image listed but missing"] == {"count": 1, "examples": ["left/a.png"]}
        assert dump.boxes()["a.png"] == PLAIN

    def test_one_file_by_two_right_names(self, dump: Dump) -> None:
        dump.add("images/a.png", "")
        dump.document["annotations"][-1]["bbox"] = [30, 30, 5, 5]
        report = dump.prepare()
        assert report["dropped"] == {"duplicate of another box": {"count": 1, "examples": ["images/a.png: bolt"]}}
        assert dump.boxes()["a.png"] == [*PLAIN, [2, 30, 30, 5, 5]]

    def test_listed_but_absent(self, dump: Dump) -> None:
        dump.add("gone.png", "")
        with refused("1 of the 5 images of", "are missing (gone.png)", "--max-lost 100"):
            dump.prepare()
        report = dump.prepare(max_lost=20)
        assert report["dropped"] == {
            "image listed but missing": {"count": 1, "examples": ["gone.png"]},
            "box of an image that cannot be used": {"count": 2, "examples": ["gone.png"]},
        }
        assert report["images"]["train"] + report["images"]["val"] == 4

    def test_present_but_not_listed(self, dump: Dump) -> None:
        for name in ("x.png", "sub/y.JPG"):
            path = dump.root / "images" / name
            path.parent.mkdir(exist_ok=True)
            Image.new("RGB", SIZE).save(path)
        (dump.root / "images" / "._a.png").write_bytes(b"what macOS leaves in archives")
        what = "image that no annotation file lists"
        with refused("2 of the 6 images", "no annotation file (images/sub/y.JPG, images/x.png)", "--max-lost 100"):
            dump.prepare()
        only(dump.prepare(max_lost=34), "skipped", what, 2, "images/sub/y.JPG", "images/x.png")


class TestImages:
    """Files that are odd, or no images."""

    @pytest.mark.parametrize(
        ("mode", "suffix", "kind"),
        [
            ("L", "png", "greyscale"), ("L", "jpg", "greyscale"), ("1", "png", "greyscale"), ("L", "bmp", "greyscale"),
            ("P", "png", "palette"), ("P", "gif", "palette"), ("CMYK", "jpg", "CMYK"), ("CMYK", "tif", "CMYK"),
            ("I;16", "png", "16 bits a channel"), ("I;16", "tif", "16 bits a channel"),
            ("RGBA", "png", "alpha channel"), ("LA", "png", "alpha channel"), ("RGBA", "webp", "alpha channel"),
        ],
    )  # fmt: skip
    def test_unusual_pixels(self, dump: Dump, mode: str, suffix: str, kind: str) -> None:
        image = Image.new(mode, SIZE, 9000) if mode == "I;16" else Image.new("L", SIZE, 90).convert("RGB").convert(mode)
        if mode == "RGBA":
            image.putalpha(100)
        dump.add(f"odd.{suffix}", image=image)
        only(dump.prepare(), "noted", f"image with {kind}, read as RGB", 1, f"images/odd.{suffix}")
        assert dump.boxes()[f"odd.{suffix}"] == PLAIN

    @pytest.mark.parametrize("suffix", ["jpg", "png", "bmp", "gif", "tif", "webp"])
    def test_usual_files(self, dump: Dump, suffix: str) -> None:
        dump.add(f"x.{suffix}", image=Image.effect_noise(SIZE, 50).convert("RGB"))
        report = dump.prepare()
        assert not report["dropped"]
        assert dump.sizes()[f"x.{suffix}"] == SIZE

    @pytest.mark.parametrize("suffix", ["jpg", "png", "bmp", "gif", "tif", "webp"])
    @pytest.mark.parametrize("part", [0.2, 0.6, 0.97])
    def test_truncated(self, dump: Dump, suffix: str, part: float) -> None:
        name = f"cut.{suffix}"
        dump.add(name, image=Image.effect_noise(SIZE, 50).convert("RGB"))
        path = dump.root / "images" / name
        path.write_bytes(path.read_bytes()[: int(path.stat().st_size * part)])
        report = dump.prepare()
        assert report["dropped"]["image that cannot be read"]["count"] == 1
        assert report["dropped"]["image that cannot be read"]["examples"][0].startswith(f"images/{name}: ")
        assert report["dropped"]["box of an image that cannot be used"] == {"count": 2, "examples": [name]}
        assert name not in dump.boxes()

    @pytest.mark.parametrize("suffix", ["jpg", "png"])
    def test_more_behind_the_end_is_none_of_ours(self, dump: Dump, suffix: str) -> None:
        dump.add(f"x.{suffix}")
        with (dump.root / "images" / f"x.{suffix}").open("ab") as file:
            file.write(b"\0" * 300 + b"maker's note")
        assert not dump.prepare()["dropped"]

    @pytest.mark.parametrize(
        ("content", "why"),
        [(b"", "it is empty"), (b"<html>log in</html>", "it is none of JPEG, PNG"), (b"\x89PNG\r\n\x1a\n", "")],
    )
    def test_no_image(self, dump: Dump, content: bytes, why: str) -> None:
        (dump.root / "images" / "b.png").rename(dump.root / "images" / "b.jpg")
        dump.document["images"][1]["file_name"] = "b.jpg"
        (dump.root / "images" / "b.jpg").write_bytes(content)
        report = dump.prepare()
        (example,) = report["dropped"]["image that cannot be read"]["examples"]
        assert example.startswith(f"images/b.jpg: {why}")
        assert str(dump.root) not in example
        assert set(dump.boxes()) == {"a.png", "c.png", "d.png"}

    def test_no_image_at_all(self, dump: Dump) -> None:
        for path in (dump.root / "images").iterdir():
            path.write_bytes(b"")
        with refused("has no usable image", "4 x image that cannot be read"):
            dump.prepare()

    def test_name_of_another_format(self, dump: Dump) -> None:
        Image.new("RGB", SIZE).save(dump.root / "images" / "a.png", "JPEG")
        assert not dump.prepare()["dropped"]

    def test_very_large(self, dump: Dump) -> None:
        dump.add("large.png", image=Image.new("1", (10_000, 5_001)))
        report = dump.prepare()
        assert report["noted"]["image of more than 50 million pixels"]["examples"] == ["images/large.png"]
        assert dump.sizes()["large.png"] == (10_000, 5_001)
        assert MOST_PIXELS > 10_000 * 5_001


class TestSizes:
    @pytest.mark.parametrize("told", [(80, 48), (None, None), ("64", "48"), (0, 0), (48, 64), (-64, -48)])
    def test_other_than_the_file_s(self, dump: Dump, told: tuple[Any, Any]) -> None:
        dump.document["images"][0].update(width=told[0], height=told[1])
        report = dump.prepare()
        assert dump.sizes()["a.png"] == SIZE
        assert dump.boxes()["a.png"] == PLAIN
        differs = told in ((80, 48), (48, 64))
        assert ("image size other than the file's" in report["repaired"]) is differs

    @pytest.mark.parametrize(("told", "scale"), [((128, 96), 0.5), ((32, 24), 2), ((640, 480), 0.1)])
    def test_resized_since(self, dump: Dump, told: tuple[int, int], scale: float) -> None:
        dump.document["images"][0].update(width=told[0], height=told[1])
        for box in dump.document["annotations"][:2]:
            box["bbox"] = [value / scale for value in box["bbox"]]
        only(dump.prepare(), "repaired", "image resized since the dump, boxes scaled with it", 1, "a.png")
        assert dump.boxes()["a.png"] == [pytest.approx(box) for box in PLAIN]


class TestExif:
    """CVAT measures upright since release 2.1, and took the pixels as they lie before; the trainer turns upright."""

    BOX = (6, 10, 20, 8)

    def photograph(self, orientation: int, size: tuple[int, int] = SIZE) -> tuple[Image.Image, dict[str, Any]]:
        """Give an image that has a white box at `BOX` when it is turned upright, and the options to save it."""
        upright = np.zeros((size[1], size[0], 3), np.uint8)
        x, y, width, height = self.BOX
        upright[y : y + height, x : x + width] = 255
        turns = {
            1: None, 2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180,
            4: Image.Transpose.FLIP_TOP_BOTTOM, 5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_90,
            7: Image.Transpose.TRANSVERSE, 8: Image.Transpose.ROTATE_270,
        }  # fmt: skip
        image = Image.fromarray(upright)
        turn = turns[orientation]
        exif = Image.Exif()
        exif[0x0112] = orientation
        return (image if turn is None else image.transpose(turn)), {"exif": exif.tobytes()}

    def white(self, image: Image.Image) -> list[float]:
        """The box around the white pixels."""
        rows, columns = np.nonzero(np.asarray(image.convert("L")) > 128)
        x, y = int(columns.min()), int(rows.min())
        return [x, y, int(columns.max()) + 1 - x, int(rows.max()) + 1 - y]

    def add(self, dump: Dump, name: str, orientation: int, *, raw: bool, size: tuple[int, int] = SIZE) -> None:
        """Add a photograph with its box as CVAT writes it now, or as it did (`raw`)."""
        image, options = self.photograph(orientation, size)
        listed = (
            dump.add(name, image=image, quality=95, **options)
            if name.endswith("jpg")
            else dump.add(name, image=image, **options)
        )
        seen = image if raw else ImageOps.exif_transpose(Image.open(dump.root / "images" / name))
        listed.update(width=seen.width, height=seen.height)
        dump.document["annotations"] = dump.document["annotations"][:-2]
        dump.box(listed["id"], self.white(seen))

    def check(self, dump: Dump, name: str, size: tuple[int, int] = SIZE) -> None:
        with Image.open(dump.root / "images" / name) as image:
            assert dump.boxes()[name] == [[1, *self.white(ImageOps.exif_transpose(image))]]
        assert dump.sizes()[name] == size

    @pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
    @pytest.mark.parametrize("orientation", range(2, 9))
    def test_upright_as_cvat_has_it(self, dump: Dump, orientation: int, suffix: str) -> None:
        self.add(dump, f"x.{suffix}", orientation, raw=False)
        report = dump.prepare()
        self.check(dump, f"x.{suffix}")
        only(report, "noted", "photograph with an EXIF rotation, read upright", 1, f"x.{suffix}")

    @pytest.mark.parametrize("suffix", ["jpg", "png"])
    @pytest.mark.parametrize("orientation", range(5, 9))
    def test_raw_as_old_cvat_had_it(self, dump: Dump, orientation: int, suffix: str) -> None:
        self.add(dump, f"x.{suffix}", orientation, raw=True)
        report = dump.prepare()
        self.check(dump, f"x.{suffix}")
        only(report, "repaired", "boxes of a photograph's raw frame turned upright (EXIF)", 1, f"x.{suffix}")

    @pytest.mark.parametrize("raw", [False, True])
    def test_sizes_that_tell_nothing_follow_the_others(self, dump: Dump, raw: bool) -> None:
        self.add(dump, "sure.jpg", 6, raw=raw)
        for orientation in (2, 3, 4):
            self.add(dump, f"half{orientation}.jpg", orientation, raw=raw)
        for orientation in range(5, 9):
            self.add(dump, f"square{orientation}.jpg", orientation, raw=raw, size=(40, 40))
        report = dump.prepare()
        for orientation in (2, 3, 4):
            self.check(dump, f"half{orientation}.jpg")
        for orientation in range(5, 9):
            self.check(dump, f"square{orientation}.jpg", (40, 40))
        what = "boxes of a photograph's raw frame turned upright (EXIF)"
        assert report["repaired"].get(what, {"count": 0})["count"] == (8 if raw else 0)

    def test_no_rotation_is_no_word(self, dump: Dump) -> None:
        self.add(dump, "x.jpg", 1, raw=False)
        assert not dump.prepare()["noted"]
