from __future__ import annotations

from pathlib import Path

import pytest

from steps.formats import cvat_xml
from tests.steps.formats import test_yolo
from tests.steps.formats.dumps import said
from tests.steps.refusals import refused

META = (
    "<meta><{0}><size>{1}</size><labels><label><name>bolt</name></label><label><name>nut</name></label>"
    "<label><name>elbow</name><parent>arm</parent></label></labels></{0}></meta>"
)


def write(root: Path, body: str, size: int = 1, holder: str = "task") -> Path:
    root.mkdir(exist_ok=True, parents=True)
    path = root / "annotations.xml"
    path.write_text(
        f"<annotations>\n<version>1.1</version>\n{META.format(holder, size)}\n{body}\n</annotations>", encoding="utf-8"
    )
    return path


def image(body: str, name: str = "a.jpg", extra: str = "") -> str:
    return f'<image id="0" name="{name}" width="100" height="90" {extra}>{body}</image>'


def shape(tag: str, fields: str, label: str = "bolt", body: str = "") -> str:
    return f'<{tag} label="{label}" occluded="0" {fields}>{body}</{tag}>'


def box(left: object, top: object, right: object, bottom: object) -> str:
    return f'xtl="{left}" ytl="{top}" xbr="{right}" ybr="{bottom}"'


BOX = shape("box", box(10, 20, 30, 60))
# .##.
# ####  of a mask whose own box begins at (5, 7): runs along the rows, zeros first.
MASK = 'rle="1, 2, 1, 4" left="5" top="7" width="4" height="2"'


class TestImages:
    @pytest.mark.parametrize(
        ("body", "expected"),
        [
            (BOX, (10, 20, 20, 40)),
            (shape("box", box(10, 20, 30, 60) + ' rotation="90.00"'), (0, 30, 40, 20)),
            (shape("box", box(0, 0, 10, 10) + ' rotation="45"'), (5 - 50**0.5, 5 - 50**0.5, 200**0.5, 200**0.5)),
            (shape("polygon", 'points="1.00,2.00;9.00,4.00;5.00,8.00"'), (1, 2, 8, 6)),
            (shape("ellipse", 'cx="50" cy="40" rx="20" ry="10"'), (30, 30, 40, 20)),
            (shape("ellipse", 'cx="50" cy="40" rx="20" ry="10" rotation="270"'), (40, 20, 20, 40)),
            (shape("mask", MASK), (5, 7, 4, 2)),
            (shape("mask", 'rle="0, 4" left="5" top="7" width="2" height="2"'), (5, 7, 2, 2)),
            (shape("mask", 'rle="5, 1, 3" left="5" top="7" width="3" height="3"'), (7, 8, 1, 1)),
        ],
    )
    def test_boxes(self, tmp_path: Path, body: str, expected: tuple[float, ...]) -> None:
        write(tmp_path, image(body))
        found = said(cvat_xml, tmp_path)
        assert found.images == {"a": [("bolt", *(pytest.approx(value) for value in expected))]}
        assert found.dataset.sizes == [(100, 90)]
        assert [category.name for category in found.dataset.categories] == ["bolt", "nut"]
        assert found.findings == {}

    @pytest.mark.parametrize(
        ("body", "finding"),
        [
            (shape("polyline", 'points="1,2;3,4"'), {"skipped": {"polyline, which has no box": 1}}),
            (shape("points", 'points="1,2"'), {"skipped": {"points, which has no box": 1}}),
            (shape("cuboid", 'xtl1="1"'), {"skipped": {"cuboid, which has no box": 1}}),
            ('<tag label="bolt" source="manual"></tag>', {"skipped": {"tag, which has no box": 1}}),
            (
                "<skeleton label='arm'><points label='elbow' outside='0' points='1,2'/></skeleton>",
                {"skipped": {"skeleton, which has no box": 1}},
            ),
            ("<hologram/>", {"skipped": {"annotation of an unknown type, which has no box": 1}}),
            (shape("box", box(1, 2, 3, 4), label=""), {"dropped": {"box of an unlisted category": 1}}),
            (
                shape("mask", 'rle="4" left="5" top="7" width="2" height="2"'),
                {"dropped": {"shape of zero size": 1}},
            ),
            (
                shape("mask", 'rle="0, 9" left="5" top="7" width="2" height="2"'),
                {"dropped": {"shape of zero size": 1}},
            ),
        ],
    )
    def test_what_is_no_box(self, tmp_path: Path, body: str, finding: dict[str, dict[str, int]]) -> None:
        write(tmp_path, image(body))
        found = said(cvat_xml, tmp_path)
        assert found.images == {"a": []}
        assert found.findings == finding

    @pytest.mark.parametrize("rule", ["occluded", "colour=red", "rusty"])
    def test_attributes_filter(self, tmp_path: Path, rule: str) -> None:
        attributes = '<attribute name="colour">red</attribute><attribute name="rusty">true</attribute>'
        write(tmp_path, image(shape("box", box(1, 2, 3, 4), body=attributes).replace('occluded="0"', 'occluded="1"')))
        assert said(cvat_xml, tmp_path, exclude=[rule]).images == {"a": []}
        assert len(said(cvat_xml, tmp_path, exclude=["other"]).images["a"]) == 1

    def test_project(self, tmp_path: Path) -> None:
        test_yolo.write(tmp_path, {"images/train/a.jpg": "", "images/val/a.jpg": ""})
        body = "".join(image(BOX, extra=f'subset="{subset}" task_id="1"') for subset in ("train", "val"))
        write(tmp_path, body, holder="project")
        dataset = said(cvat_xml, tmp_path).dataset
        assert dataset.names == ["images/train/a.jpg", "images/val/a.jpg"]
        assert dataset.subsets == ["train", "val"]

    def test_frames_of_a_video_have_no_suffix(self, tmp_path: Path) -> None:
        test_yolo.write(tmp_path, {"images/frame_000000.PNG": "", "images/frame_000001.PNG": ""})
        for path in (tmp_path / "images").iterdir():
            assert path.suffix == ".PNG"
        write(tmp_path, image(BOX, "frame_000001"))
        assert said(cvat_xml, tmp_path).dataset.names == ["images/frame_000001.PNG"]

    def test_two_suffixes(self, tmp_path: Path) -> None:
        test_yolo.write(tmp_path, {"images/a.jpg": "", "images/a.png": ""})
        write(tmp_path, image(BOX, "a.png"))
        assert said(cvat_xml, tmp_path).dataset.names == ["images/a.png"]


def track(body: str, label: str = "bolt", extra: str = "") -> str:
    return f'<track id="3" label="{label}" source="manual" {extra}>{body}</track>'


def at(frame: object, where: str, outside: int = 0, keyframe: int = 1, tag: str = "box", occluded: int = 0) -> str:
    return (
        f'<{tag} frame="{frame}" keyframe="{keyframe}" outside="{outside}" occluded="{occluded}" {where} z_order="0">'
        f"</{tag}>"
    )


class TestTracks:
    @pytest.fixture
    def frames(self, tmp_path: Path) -> Path:
        """Images of frames 0 to 4."""
        return test_yolo.write(tmp_path, {f"images/frame_{frame:06}.jpg": "" for frame in range(5)})

    def boxes(self, root: Path) -> dict[int, list[tuple[float, ...]]]:
        images = said(cvat_xml, root).images
        return {int(name.removeprefix("frame_")): [box for _, *box in boxes] for name, boxes in images.items()}

    def test_frame_by_frame(self, frames: Path) -> None:
        every = [at(frame, box(frame, 0, frame + 10, 10), keyframe=frame in (0, 2)) for frame in range(3)]
        write(frames, track("".join(every) + at(3, box(2, 0, 12, 10), outside=1)), 5)
        assert self.boxes(frames) == {
            0: [[0, 0, 10, 10]],
            1: [[1, 0, 10, 10]],
            2: [[2, 0, 10, 10]],
            3: [],
            4: [],
        }
        found = said(cvat_xml, frames)
        assert found.dataset.video
        assert found.findings == {}
        assert len(said(cvat_xml, frames, exclude=["track_id=3"]).dataset.boxes()) == 0

    def test_images_dumped_as_tracks_are_no_video(self, frames: Path) -> None:
        for frame in range(3):
            write(frames, track(at(frame, box(0, 0, 10, 10)) + at(frame + 1, box(0, 0, 10, 10), outside=1)), 5)
            found = said(cvat_xml, frames)
            assert [boxes for boxes in found.images.values() if boxes] == [[("bolt", 0, 0, 10, 10)]]
            assert not found.dataset.video

    def test_out_and_in_again(self, frames: Path) -> None:
        shapes = [(0, 0), (1, 1), (3, 0), (4, 1)]
        write(frames, track("".join(at(frame, box(0, 0, 10, 10), outside) for frame, outside in shapes)), 5)
        assert [frame for frame, boxes in self.boxes(frames).items() if boxes] == [0, 3]

    def test_keyframes_only_are_interpolated(self, frames: Path) -> None:
        write(frames, track(at(4, box(8, 0, 18, 10)) + at(0, box(0, 0, 10, 10))), 5)
        assert self.boxes(frames) == {frame: [[2 * frame, 0, 10, 10]] for frame in range(5)}
        assert said(cvat_xml, frames).findings == {"repaired": {"frame between a track's keyframes, interpolated": 3}}

    def test_frames_without_images_are_no_gap(self, frames: Path) -> None:
        for frame in (1, 2, 3):
            (frames / f"images/frame_{frame:06}.jpg").unlink()
        write(frames, track(at(0, box(0, 0, 10, 10)) + at(4, box(8, 0, 18, 10))), 5)
        assert self.boxes(frames) == {0: [[0, 0, 10, 10]], 4: [[8, 0, 10, 10]]}
        assert said(cvat_xml, frames).findings == {}

    def test_other_shapes(self, frames: Path) -> None:
        write(
            frames,
            track(at(0, 'points="1,2;9,4;5,8"', tag="polygon"))
            + track(at(1, MASK, tag="mask"), "nut")
            + track(at(2, 'points="1,2;9,4"', tag="polyline")),
            5,
        )
        found = said(cvat_xml, frames)
        assert found.images["frame_000000"] == [("bolt", 1, 2, 8, 6)]
        assert found.images["frame_000001"] == [("nut", 5, 7, 4, 2)]
        assert found.findings == {"skipped": {"polyline, which has no box": 1}}

    def test_without_images(self, tmp_path: Path) -> None:
        write(tmp_path, track(at(7, box(0, 0, 10, 10))), 5)
        assert said(cvat_xml, tmp_path).dataset.names == ["images/frame_000007"]

    def test_images_of_another_name_are_taken_in_order(self, tmp_path: Path) -> None:
        test_yolo.write(tmp_path, {"images/left.jpg": "", "images/right.jpg": ""})
        write(tmp_path, track(at(1, box(0, 0, 10, 10))), 2)
        assert said(cvat_xml, tmp_path).images == {"left": [], "right": [("bolt", 0, 0, 10, 10)]}

    def test_images_of_another_name_and_count_are_refused(self, tmp_path: Path) -> None:
        test_yolo.write(tmp_path, {"images/left.jpg": "", "images/right.jpg": ""})
        path = write(tmp_path, track(at(1, box(0, 0, 10, 10))), 3)
        with refused(path, "its 2 images for 3 frames", "CVAT for images 1.1"):
            said(cvat_xml, tmp_path)

    def test_one_frame_twice_is_refused(self, frames: Path) -> None:
        test_yolo.write(frames, {"images/frame_000001.png": ""})
        path = write(frames, track(at(1, box(0, 0, 10, 10))), 5)
        with refused(path, "two images are frame 1", "dump each task by itself"):
            said(cvat_xml, frames)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (image(shape("box", 'xtl="1" ytl="2" xbr="3"')), ["line 4: <box> has no 'ybr'"]),
        (image(shape("box", box(1, 2, "3,5", 4))), ["line 4: 'xbr' of <box> is '3,5', expected a number"]),
        (image(shape("box", box(1, 2, 3, 4) + ' rotation="left"')), ["'rotation' of <box> is 'left'"]),
        (image(shape("polygon", 'points="1,2;3"')), ["'points' of <polygon> has a point without its y"]),
        (image(shape("polygon", 'points=""')), ["'points' of <polygon> is ''"]),
        (image(shape("mask", MASK.replace("1, 2", "1, x"))), ["'rle' of <mask> is ' x'"]),
        (image(shape("mask", MASK.replace('left="5"', 'left="5.5"'))), ["'left' of <mask> is '5.5', expected a whole"]),
        ('<image id="0">' + BOX + "</image>", ["line 4: <image> has no 'name'"]),
        (track(at("x", box(1, 2, 3, 4))), ["'frame' of <box> is 'x'"]),
        (track(BOX), ["<box> has no 'frame'"]),
        (image(BOX)[:-3], ["not readable XML"]),
    ],
)
def test_malformed(tmp_path: Path, body: str, words: list[str]) -> None:
    path = write(tmp_path, body)
    with refused(path, *words, "dump the task again"):
        said(cvat_xml, tmp_path)


def test_cut_off(tmp_path: Path) -> None:
    path = write(tmp_path, image(BOX))
    path.write_bytes(path.read_bytes()[:-30])
    assert cvat_xml.recognise(tmp_path) == [path]
    with refused(path, "line 4: not readable XML"):
        said(cvat_xml, tmp_path)


def test_nothing_there(tmp_path: Path) -> None:
    with refused(tmp_path, "no annotations.xml of CVAT's", "CVAT for images 1.1"):
        said(cvat_xml, tmp_path)
