from __future__ import annotations

from pathlib import Path

import pytest

from steps.formats import mot
from tests.steps.formats.dumps import said
from tests.steps.formats.test_yolo import write
from tests.steps.refusals import refused


@pytest.fixture
def dump(tmp_path: Path) -> Path:
    """Two frames."""
    return write(
        tmp_path,
        {
            "gt/gt.txt": "1,1,10.5,20,30,40,1,1,1.0\n1,2,1,2,3,4,1,2,0.25\n2,1,11,20,30,40,1,1,0.0\n",
            "gt/labels.txt": "bolt\nnut",
            "img1/000001.jpg": "",
            "img1/000002.jpg": "",
        },
    )


def test_boxes(dump: Path) -> None:
    found = said(mot, dump)
    assert found.images == {
        "000001": [("bolt", 10.5, 20, 30, 40), ("nut", 1, 2, 3, 4)],
        "000002": [("bolt", 11, 20, 30, 40)],
    }
    assert found.findings == {}
    assert found.dataset.video


def test_images_dumped_as_mot_are_no_video(dump: Path) -> None:
    (dump / "gt/gt.txt").write_text("1,1,1,2,3,4,1,1,1\n1,2,1,2,3,4,1,1,1\n2,3,1,2,3,4,1,1,1\n2,-1,1,2,3,4,1,1,1\n")
    assert not said(mot, dump).dataset.video


@pytest.mark.parametrize(("rule", "left"), [("occluded", 2), ("track_id=1", 1), ("visibility=0.25", 2)])
def test_attributes(dump: Path, rule: str, left: int) -> None:
    assert len(said(mot, dump, exclude=[rule]).dataset.boxes()) == left


def test_what_does_not_count_is_a_crowd(dump: Path) -> None:
    (dump / "gt/gt.txt").write_text("1,1,10,20,30,40,0,1,1.0\n2,1,10,20,30,40,1,1,1.0\n")
    found = said(mot, dump)
    assert found.dataset.boxes().crowd.tolist() == [True, False]
    assert found.findings == {"repaired": {"object marked as ignored, kept as a crowd region": 1}}


def rename(dump: Path, *names: str) -> None:
    for number in (1, 2):
        (dump / f"img1/00000{number}.jpg").rename(dump / f"img1/x{number}.jpg")
    for number, name in enumerate(names, 1):
        (dump / f"img1/x{number}.jpg").rename(dump / f"img1/{name}.jpg")


@pytest.mark.parametrize(
    ("names", "second"),
    [(("0", "1"), False), (("2", "01"), False), (("frame_000000", "frame_000001"), True), (("a_7", "a_8"), True)],
)
def test_a_frame_is_an_image_s_number_or_its_place(dump: Path, names: tuple[str, str], second: bool) -> None:
    rename(dump, *names)
    (dump / "gt/gt.txt").write_text("2,1,1,2,3,4,1,1,1\n" if second else "1,1,1,2,3,4,1,1,1\n")
    boxes = [("bolt", 1, 2, 3, 4)]
    assert said(mot, dump).images == {names[0]: [], names[1]: boxes}


@pytest.mark.parametrize("names", [("img_10", "img_2"), ("left", "right"), ("a1", "b2"), ("a/1", "2_b")])
def test_images_whose_order_is_not_known_are_refused(dump: Path, names: tuple[str, str]) -> None:
    (dump / "img1/a").mkdir()
    rename(dump, *names)
    with refused(dump / "gt/gt.txt", "--frame-order lexicographical", "natural", "CVAT for images 1.1"):
        said(mot, dump)
    first, second = sorted(names)
    found = said(mot, dump, frame_order="lexicographical")
    bare = [name.rpartition("/")[2] for name in (first, second)]
    assert {name: len(boxes) for name, boxes in found.images.items()} == {bare[0]: 2, bare[1]: 1}
    assert found.findings == {"noted": {"image numbered by its place among the names": 2}}


def test_a_place_beyond_the_last_image_is_refused(dump: Path) -> None:
    rename(dump, "frame_000000", "frame_000004")
    (dump / "gt/gt.txt").write_text("1,1,1,2,3,4,1,1,1\n3,1,1,2,3,4,1,1,1\n")
    with refused(dump / "gt/gt.txt", "line 2 is of frame 3, but there are 2 images", "CVAT for images 1.1"):
        said(mot, dump)


def test_deleted_frames_leave_the_places_unknown(dump: Path) -> None:
    rename(dump, "frame_000000", "frame_000005")
    write(dump, {"img1/frame_000010.jpg": ""})
    assert list(said(mot, dump).images) == ["frame_000000", "frame_000005", "frame_000010"]
    (dump / "img1/frame_000010.jpg").rename(dump / "img1/frame_000011.jpg")
    with refused(dump / "gt/gt.txt", "frames are missing between", "CVAT for images 1.1", "--frame-order"):
        said(mot, dump)
    assert len(said(mot, dump, frame_order="lexicographical").dataset.boxes()) == 3


def test_two_images_of_one_frame_are_refused(dump: Path) -> None:
    rename(dump, "1", "01")
    with refused(dump, "1.jpg", "01.jpg", "are both frame 1"):
        said(mot, dump)


def test_frame_without_an_image_is_named(dump: Path) -> None:
    (dump / "gt/gt.txt").write_text("7,1,1,2,3,4,1,1,1\n")
    assert said(mot, dump).images["000007"] == [("bolt", 1, 2, 3, 4)]


def test_sequences(dump: Path) -> None:
    for folder in ("train/one", "train/two", "val/three"):
        write(dump, {f"{folder}/{name}": "" for name in ("img1/000001.jpg", "img1/000002.jpg")})
        write(dump, {f"{folder}/gt/{name}": (dump / "gt" / name).read_bytes() for name in ("gt.txt", "labels.txt")})
    (dump / "gt/gt.txt").unlink()
    dataset = said(mot, dump).dataset
    assert len(dataset.boxes()) == 9
    assert dataset.subsets == ["train"] * 4 + ["val"] * 2
    assert dataset.names[2] == "train/two/img1/000001.jpg"
    assert len(dataset.categories) == 2


def test_classes_without_names(dump: Path) -> None:
    (dump / "gt/labels.txt").unlink()
    found = said(mot, dump)
    assert [category.name for category in found.dataset.categories] == ["1", "2"]
    assert found.findings["lost"]["class names: classes are called by their numbers"] == 1


@pytest.mark.parametrize("label", ["0", "3", "-1", ""])
def test_class_without_a_name_is_dropped(dump: Path, label: str) -> None:
    (dump / "gt/gt.txt").write_text(f"1,1,1,2,3,4,1,{label},1\n")
    found = said(mot, dump)
    assert len(found.dataset.boxes()) == 0
    assert found.findings == {"dropped": {"box of an unlisted category": 1}}


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("1,1,1,2,3", ["line 2 has 5 fields"]),
        ("1 1 1 2 3 4 1 1 1", ["line 2 has 1 fields"]),
        ("1,1,1,x,3,4,1,1,1", ["line 2: a coordinate is 'x'"]),
        ("1.5,1,1,2,3,4,1,1,1", ["line 2: frame is '1.5', expected a whole number"]),
        ("nan,1,1,2,3,4,1,1,1", ["line 2: frame is 'nan'"]),
        ("1,1,1,2,3,4,1,bolt,1", ["line 2: the class is 'bolt'"]),
        ("1,1,1,2,3,4,1,1,?", ["line 2: visibility is '?'"]),
    ],
)
def test_malformed(dump: Path, line: str, words: list[str]) -> None:
    (dump / "gt/gt.txt").write_text(f"1,1,1,2,3,4,1,1,1\n{line}\n")
    with refused(dump / "gt/gt.txt", *words, "dump the task again"):
        said(mot, dump)


def test_nothing_there(tmp_path: Path) -> None:
    with refused(tmp_path, "no gt/gt.txt", "MOT 1.1"):
        said(mot, tmp_path)
