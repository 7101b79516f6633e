from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from steps.formats import yolo
from tests.steps.formats.dumps import PICTURES, export, said
from tests.steps.refusals import refused

LINE = "0 0.5 0.5 0.2 0.1\n"
BOX = ("bolt", 40, 45, 20, 10)


def write(root: Path, files: dict[str, str | bytes]) -> Path:
    """Write files; one that ends as an image is one of 100 x 100 pixels."""
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if name.endswith((".png", ".jpg", ".JPG")):
            Image.new("RGB", (100, 100)).save(path)
        else:
            path.write_bytes(content.encode() if isinstance(content, str) else content)
    return root


@pytest.fixture
def darknet(tmp_path: Path) -> Path:
    """Two images of the class bolt or nut."""
    return write(
        tmp_path,
        {
            "obj.data": "classes = 2\ntrain = data/train.txt\nnames = data/obj.names\nbackup = backup/\n",
            "obj.names": "bolt\nnut\n",
            "train.txt": "data/obj_train_data/a.jpg\ndata/obj_train_data/b.jpg\n",
            "obj_train_data/a.jpg": "",
            "obj_train_data/a.txt": LINE,
            "obj_train_data/b.jpg": "",
            "obj_train_data/b.txt": "1 0.5 0.5 0.2 0.1\n0 0.1 0.1 0.1 0.1\n",
        },
    )


@pytest.fixture
def ultralytics(tmp_path: Path) -> Path:
    """One image in each subset, and one without labels."""
    return write(
        tmp_path,
        {
            "data.yaml": "path: .\ntrain: images/train\nval: images/val\nnames: {0: bolt, 1: nut}\n",
            "images/train/a.jpg": "",
            "images/train/empty.jpg": "",
            "images/val/b.jpg": "",
            "labels/train/a.txt": LINE,
            "labels/val/b.txt": LINE,
        },
    )


def approximately(boxes: list[tuple[str, float, float, float, float]]) -> list[object]:
    return [(label, *(pytest.approx(value) for value in box)) for label, *box in boxes]


class TestDarknet:
    def test_boxes(self, darknet: Path) -> None:
        found = said(yolo, darknet)
        assert found.images["a"] == approximately([BOX])
        assert found.images["b"] == approximately([("nut", *BOX[1:]), ("bolt", 5, 5, 10, 10)])
        assert found.findings == {}

    @pytest.mark.parametrize(
        "content",
        [
            "\ufeffbolt\nnut\n".encode(),
            b"bolt\r\nnut\r\n\r\n",
            "bolt\nnut".encode("utf-16"),
            b"bolt\rnut",
        ],
    )
    def test_any_way_to_write_lines(self, darknet: Path, content: bytes) -> None:
        expected = said(yolo, darknet).images
        (darknet / "obj.names").write_bytes(content)
        assert said(yolo, darknet).images == expected

    @pytest.mark.parametrize(
        "listed",
        [
            "obj_train_data/a.jpg",
            "data\\obj_train_data\\a.jpg",
            "/home/me/darknet/data/obj_train_data/a.jpg",
            "C:\\work\\data\\obj_train_data\\a.jpg",
            "a.jpg",
            "data/obj_train_data/a.JPG",
        ],
    )
    def test_list_of_another_machine(self, darknet: Path, listed: str) -> None:
        (darknet / "train.txt").write_text(f"{listed}\n")
        (darknet / "obj_train_data/b.txt").unlink()
        found = said(yolo, darknet)
        assert list(found.images.values()) == [approximately([BOX])]

    def test_without_config(self, darknet: Path) -> None:
        expected = said(yolo, darknet).images
        (darknet / "obj.data").unlink()
        assert yolo.recognise(darknet)
        assert said(yolo, darknet).images == expected

    def test_list_that_is_gone(self, darknet: Path) -> None:
        expected = said(yolo, darknet).images
        (darknet / "train.txt").unlink()
        found = said(yolo, darknet)
        assert found.images == expected
        assert found.findings == {"repaired": {"missing list of images, taken from its label files": 1}}

    def test_unlisted_label_file_is_counted(self, darknet: Path) -> None:
        (darknet / "train.txt").write_text("data/obj_train_data/a.jpg\n")
        found = said(yolo, darknet)
        assert list(found.images) == ["a"]
        assert found.findings == {"skipped": {"label file of an unlisted image": 1}}

    def test_image_without_label_file(self, darknet: Path) -> None:
        (darknet / "obj_train_data/b.txt").unlink()
        found = said(yolo, darknet)
        assert found.images["b"] == []
        assert found.findings == {"repaired": {"image without a label file, taken as having no objects": 1}}

    def test_image_listed_twice_has_its_boxes_once(self, darknet: Path) -> None:
        (darknet / "train.txt").write_text("data/obj_train_data/a.jpg\n" * 2)
        (darknet / "obj_train_data/b.txt").unlink()
        found = said(yolo, darknet)
        assert len(found.dataset.boxes()) == 1
        assert found.findings == {"skipped": {"image listed twice": 1}}

    def test_class_without_a_name_is_dropped(self, darknet: Path) -> None:
        (darknet / "obj_train_data/b.txt").write_text("2 0.5 0.5 0.2 0.1\n-1 0.5 0.5 0.2 0.1\n")
        found = said(yolo, darknet)
        assert found.images["b"] == []
        assert found.findings == {"dropped": {"box of an unlisted category": 2}}

    def test_same_name_in_another_unicode_form(self, darknet: Path) -> None:
        write(darknet, {"obj_train_data/e\u0301.jpg": "", "obj_train_data/e\u0301.txt": LINE})
        (darknet / "train.txt").write_text("data/obj_train_data/\u00e9.jpg\n", encoding="utf-8")
        assert approximately([BOX]) in said(yolo, darknet).images.values()

    @pytest.mark.parametrize(
        ("file", "content", "words"),
        [
            ("obj_train_data/b.txt", "0 0.5 0.5 0.2 0.1\n0 0.5 0.5 0.2\n", ["line 2 has 4 fields", "dump the task"]),
            ("obj_train_data/b.txt", "0 0.5 0,5 0.2 0.1\n", ["line 1: a coordinate is '0,5', expected a number"]),
            ("obj_train_data/b.txt", "bolt 0.5 0.5 0.2 0.1\n", ["line 1: the class is 'bolt'"]),
            ("obj_train_data/b.txt", "0.5 0.5 0.5 0.2 0.1\n", ["the class is '0.5', expected a whole number"]),
            ("obj_train_data/b.txt", b"0 0.5 0.5 0.2 0.1\n\xff\n", ["line 2: this is not UTF-8 text"]),
            ("obj_train_data/b.txt", "0 0 0 1 1 0 1 1\n", ["line 1 has 8 fields"]),
            ("obj.names", "bolt\n\nnut\n", ["line 2 is empty", "give every class its line"]),
            ("obj.data", "classes = 2\nwhat?\n", ["line 2: 'what?' is not 'name = value'"]),
        ],
    )
    def test_malformed(self, darknet: Path, file: str, content: str | bytes, words: list[str]) -> None:
        write(darknet, {file: content})
        with refused(darknet / file, *words):
            said(yolo, darknet)

    def test_without_names(self, darknet: Path) -> None:
        (darknet / "obj.names").unlink()
        with refused(darknet / "obj.names", "is missing", "dump the task again"):
            said(yolo, darknet)

    @pytest.mark.parametrize("place", ["../secret.txt", "/etc/passwd", "..\\secret.txt"])
    def test_nothing_outside_is_opened(self, darknet: Path, tmp_path: Path, place: str) -> None:
        (tmp_path.parent / "secret.txt").write_text("data/obj_train_data/a.jpg\n")
        (darknet / "obj.data").write_text(f"train = {place}\nnames = {place}\n")
        found = said(yolo, darknet)
        assert "missing list of images, taken from its label files" in found.findings["repaired"]
        assert [category.name for category in found.dataset.categories] == ["bolt", "nut"]

    def test_links_are_passed_over(self, darknet: Path, tmp_path: Path) -> None:
        outside = tmp_path.parent / "outside.txt"
        outside.write_text(LINE)
        (darknet / "obj_train_data/b.txt").unlink()
        (darknet / "obj_train_data/b.txt").symlink_to(outside)
        assert said(yolo, darknet).images["b"] == []


class TestUltralytics:
    def test_boxes_and_subsets(self, ultralytics: Path) -> None:
        found = said(yolo, ultralytics)
        assert found.images == {"a": approximately([BOX]), "b": approximately([BOX]), "empty": []}
        assert found.subsets == {"a": "train", "b": "val", "empty": "train"}

    @pytest.mark.parametrize(
        "names", ["names: [bolt, nut]", "names: {0: bolt, 1: nut}", "names:\n  '0': bolt\n  1: nut\nnc: 2"]
    )
    @pytest.mark.parametrize(
        "places",
        [
            "train: images/train\nval: images/val",
            "train: ../images/train\nval: ./images/val",
            "path: /content/dataset\ntrain: /content/dataset/images/train\nval: [images/val]",
            "",
        ],
    )
    def test_ways_to_write_it(self, ultralytics: Path, names: str, places: str) -> None:
        expected = said(yolo, ultralytics)
        (ultralytics / "data.yaml").write_text(f"{names}\n{places}\n")
        found = said(yolo, ultralytics)
        assert (found.images, found.subsets) == (expected.images, expected.subsets)

    def test_subset_above_images(self, tmp_path: Path) -> None:
        root = write(
            tmp_path,
            {
                "data.yaml": "train: ../train/images\nval: ../valid/images\nnames: [bolt]\n",
                "train/images/a.jpg": "",
                "train/labels/a.txt": LINE,
                "valid/images/b.jpg": "",
                "valid/labels/b.txt": LINE,
            },
        )
        found = said(yolo, root)
        assert found.subsets == {"a": "train", "b": "val"}
        assert all(boxes == approximately([BOX]) for boxes in found.images.values())

    def test_listed_image_that_is_absent_is_still_listed(self, tmp_path: Path) -> None:
        root = export(tmp_path / "dump", "yolo_ultralytics")
        (root / "images/train/a.png").unlink()
        found = said(yolo, root)
        assert found.images.keys() == {picture.name for picture in PICTURES}
        assert len(found.images["a"]) == len(PICTURES[0].boxes)

    def test_image_in_no_subset_is_left_out(self, ultralytics: Path) -> None:
        write(ultralytics, {"images/other/d.jpg": "", "labels/other/d.txt": LINE})
        found = said(yolo, ultralytics)
        assert set(found.images) == {"a", "b", "empty"}
        assert found.findings == {"skipped": {"label file of an unlisted image": 1}}

    @pytest.mark.parametrize(
        ("line", "box"),
        [
            ("0 0.2 0.3 0.6 0.3 0.6 0.5 0.2 0.5", ("bolt", 20, 30, 40, 20)),
            ("0 0.4 0.2 0.6 0.4 0.4 0.6 0.2 0.4", ("bolt", 20, 20, 40, 40)),
            ("0 0.1 0.1 0.9 0.1 0.5 0.7", ("bolt", 10, 10, 80, 60)),
            ("0 0.5 0.5 0.2 0.1 7", BOX),
        ],
    )
    def test_corners_and_tracks(
        self, ultralytics: Path, line: str, box: tuple[str, float, float, float, float]
    ) -> None:
        (ultralytics / "labels/train/a.txt").write_text(line)
        assert said(yolo, ultralytics).images["a"] == approximately([box])

    def test_keypoints_follow_the_box(self, ultralytics: Path) -> None:
        with (ultralytics / "data.yaml").open("a") as config:
            config.write("kpt_shape: [2, 3]\n")
        (ultralytics / "labels/train/a.txt").write_text("0 0.5 0.5 0.2 0.1 0.9 0.9 2 0.8 0.8 1\n")
        assert said(yolo, ultralytics).images["a"] == approximately([BOX])

    @pytest.mark.parametrize(
        ("content", "words"),
        [
            ("names: [bolt\ntrain: x", ["line 2: not readable YAML"]),
            ("names: !!python/object/apply:os.system ['true']", ["line 1: a tag, which CVAT never writes"]),
            ("names: 3", ["'names' is '3', expected the classes as a list"]),
            ("names: [[1]]", ["'names' has the name ['1'], expected text"]),
            ("names: {one: bolt}", ["a number in 'names' is 'one'"]),
            ("names: " + "[" * 40, ["deep nesting"]),
            ("names: " + "[" * 5000, ["not readable YAML"]),
        ],
    )
    def test_malformed(self, ultralytics: Path, content: str, words: list[str]) -> None:
        (ultralytics / "data.yaml").write_text(content)
        with refused(ultralytics / "data.yaml", *words):
            said(yolo, ultralytics)


def test_settings_of_something_else(tmp_path: Path) -> None:
    write(tmp_path, {"other.yaml": "gr\u00fc\u00dfe: names".encode("latin-1"), "list.yml": "- names\n"})
    assert yolo.recognise(tmp_path) == []


def test_neither(tmp_path: Path) -> None:
    with refused(tmp_path, "neither obj.names nor data.yaml", "YOLO 1.1"):
        said(yolo, tmp_path)
