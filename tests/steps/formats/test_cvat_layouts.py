"""Small dumps in the layouts that CVAT's server writes, where these differ from datumaro's own."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from steps.formats import coco, cvat_backup, cvat_xml, kitti, labelme, open_images, segmentation_mask, yolo
from steps.prepare import prepare_data
from tests.steps.formats.dumps import said
from tests.steps.formats.test_yolo import write
from tests.steps.refusals import refused

SIZE = (64, 48)
BOX = ("bolt", 10.0, 20.0, 20.0, 8.0)


def paint(root: Path, *names: str) -> Path:
    """Write an image of `SIZE` for each name."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", SIZE).save(root / name)
    return root


def mask(path: Path, parts: Mapping[tuple[int, int, int, int], Any], kind: str = "RGB") -> None:
    """Write a mask: each part is left, top, right, bottom (the last pixel in) and its value."""
    pixels = np.zeros((SIZE[1], SIZE[0], 3) if kind == "RGB" else SIZE[::-1], np.uint16 if kind == "I;16" else np.uint8)
    for (left, top, right, bottom), value in parts.items():
        pixels[top : bottom + 1, left : right + 1] = value
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


INFO = dict.fromkeys(("contributor", "date_created", "description", "url", "version", "year"), "")
# Down the columns: two of ten pixels from (5, 7) on.
RLE = {"size": [48, 64], "counts": [5 * 48 + 7, 10, 38, 10, 57 * 48 - 17]}


class TestCoco:
    def write(self, root: Path, *shapes: dict[str, Any], info: Any = None, name: str = "instances_default") -> Path:
        paint(root, "images/default/a.png", "images/default/set 1/b.png")
        document = {
            "info": INFO if info is None else info,
            "categories": [{"id": 1, "name": "bolt", "supercategory": ""}],
            "images": [
                {"id": number, "file_name": name, "width": 64, "height": 48}
                for number, name in enumerate(("a.png", "set 1/b.png"), 1)
            ],
            "annotations": [
                {
                    "id": number,
                    "image_id": 1,
                    "category_id": 1,
                    "iscrowd": 0,
                    "attributes": {"occluded": False},
                    **shape,
                }
                for number, shape in enumerate(shapes, 1)
            ],
        }
        write(root, {f"annotations/{name}.json": json.dumps(document)})
        return root

    def test_rotated_rectangle(self, tmp_path: Path) -> None:
        turned = {"bbox": [10, 20, 20, 8], "segmentation": [], "attributes": {"occluded": False, "rotation": 90.0}}
        polygon = turned | {"segmentation": [[10, 20, 30, 20, 30, 28]]}
        boxes = said(coco, self.write(tmp_path, turned, polygon)).dataset.boxes()
        assert boxes.xywh.tolist() == [pytest.approx([16, 14, 8, 20]), [10, 20, 20, 8]]

    @pytest.mark.parametrize(
        ("info", "crowds", "objects"),
        [
            (None, "auto", True),
            ({}, "auto", False),
            ({"year": 2014}, "auto", False),
            ({}, "objects", True),
            (None, "regions", False),
        ],
    )
    def test_masks_are_objects_where_the_file_is_cvat_s(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture, info: Any, crowds: str, objects: bool
    ) -> None:
        plain = {"bbox": [1, 2, 3, 4], "segmentation": []}
        mask = {"bbox": [5, 7, 2, 10], "segmentation": RLE, "iscrowd": 1}
        root = self.write(tmp_path, plain, mask, info=info)
        with caplog.at_level(logging.INFO):
            report = prepare_data(root, val_split=0, crowds=crowds)
        noted = (
            "mask with iscrowd 1, read as an object"
            if objects
            else "crowd region (iscrowd): kept as one, not trained on"
        )
        assert report["noted"][noted]["count"] == 1
        assert f"1 annotations have iscrowd 1: they are {'objects' if objects else 'crowd regions'}" in caplog.text
        document = json.loads((root / "annotations/instances_train.json").read_text())
        assert [(box["bbox"][2:], box["iscrowd"]) for box in document["annotations"]] == [
            ([3, 4], 0),
            ([2, 10], int(not objects)),
        ]

    def test_keypoints(self, tmp_path: Path) -> None:
        shape = {"bbox": [10, 20, 20, 8], "segmentation": [], "keypoints": [10, 20, 2, 30, 28, 1], "num_keypoints": 2}
        root = self.write(tmp_path, shape, name="person_keypoints_train")
        found = said(coco, root)
        assert (found.images["a"], found.subsets["a"]) == ([BOX], "train")
        # The same objects, once more.
        self.write(tmp_path, shape, name="instances_train")
        assert [path.name for path in coco.recognise(root)] == ["instances_train.json"]

    def test_crowds_is_checked(self, tmp_path: Path) -> None:
        with refused("--crowds is 'many'", "auto, regions, objects"):
            prepare_data(self.write(tmp_path), crowds="many")
        with refused("--frame-order is 'random'", "auto, lexicographical, natural"):
            prepare_data(tmp_path, frame_order="random")
        with refused("--max-lost is 101", "from 0 to 100"):
            prepare_data(tmp_path, max_lost=101)


class TestVideo:
    """CVAT for video: tracks hold frame numbers."""

    def write(self, root: Path, tasks: str, *tracks: tuple[int, str]) -> Path:
        body = "".join(
            f'<track id="{number}" label="bolt" {attributes}><box frame="{frame}" keyframe="1" outside="0" '
            f'occluded="0" xtl="10" ytl="20" xbr="30" ybr="28" z_order="0"/></track>'
            for number, (frame, attributes) in enumerate(tracks)
        )
        write(root, {"annotations.xml": f"<annotations><meta>{tasks}</meta>{body}</annotations>"})
        return root

    def task(self, size: int, extra: str = "", mode: str = "annotation", tag: str = "task") -> str:
        label = "<labels><label><name>bolt</name></label></labels>"
        return f"<{tag}><size>{size}</size><mode>{mode}</mode>{extra}{label}</{tag}>"

    def boxes(self, root: Path, **options: Any) -> dict[str, int]:
        found = said(cvat_xml, root, **options).dataset
        counts = np.bincount(found.boxes().image, minlength=len(found.names)).tolist()
        return {name: count for name, count in zip(found.names, counts, strict=True) if count}

    def test_a_folder_of_images_is_no_subset(self, tmp_path: Path) -> None:
        paint(tmp_path, "images/a.png", "images/set 1/b.png", "images/set 2/b.png")
        self.write(tmp_path, self.task(3), (1, ""), (2, ""))
        assert self.boxes(tmp_path) == {"images/set 1/b.png": 1, "images/set 2/b.png": 1}
        assert set(said(cvat_xml, tmp_path).dataset.subsets) == {""}

    def test_names_of_images_are_no_frame_numbers(self, tmp_path: Path) -> None:
        paint(tmp_path, "images/frame_000007.png", "images/frame_000008.png")
        self.write(tmp_path, self.task(2), (1, ""))
        assert self.boxes(tmp_path) == {"images/frame_000008.png": 1}
        self.write(tmp_path, self.task(9, mode="interpolation"), (7, ""))
        assert self.boxes(tmp_path) == {"images/frame_000007.png": 1}

    def test_a_job_begins_at_its_first_frame(self, tmp_path: Path) -> None:
        paint(tmp_path, "images/a.png", "images/b.png")
        extra = "<start_frame>10</start_frame><stop_frame>15</stop_frame><frame_filter>step=5</frame_filter>"
        self.write(tmp_path, self.task(2, extra, tag="job"), (15, ""))
        assert self.boxes(tmp_path) == {"images/b.png": 1}

    def test_order_that_is_not_known_is_refused(self, tmp_path: Path) -> None:
        paint(tmp_path, *(f"images/img{number}.png" for number in (1, 2, 10)))
        path = self.write(tmp_path, self.task(3), (1, "")) / "annotations.xml"
        with refused(path, "'img10.png' or 'img2.png'", "--frame-order lexicographical", "CVAT for images 1.1"):
            self.boxes(tmp_path)
        assert self.boxes(tmp_path, frame_order="natural") == {"images/img2.png": 1}
        assert self.boxes(tmp_path, frame_order="lexicographical") == {"images/img10.png": 1}

    def test_deleted_frames_leave_the_places_unknown(self, tmp_path: Path) -> None:
        paint(tmp_path, "images/a.png", "images/b.png")
        path = self.write(tmp_path, self.task(3), (1, "")) / "annotations.xml"
        with refused(path, "its 2 images for 3 frames", "CVAT for images 1.1"):
            self.boxes(tmp_path)

    def project(self, *subsets: str) -> str:
        tasks = "".join(self.task(2, f"<subset>{subset}</subset>") for subset in subsets)
        return f"<project><tasks>{tasks}</tasks></project>"

    def test_subsets_of_a_project(self, tmp_path: Path) -> None:
        paint(tmp_path, *(f"images/{subset}/{name}.png" for subset in ("train", "Train") for name in "ab"))
        self.write(
            tmp_path,
            self.project("train", "Train"),
            (0, 'task_id="1" subset="train"'),
            (1, 'task_id="2" subset="Train"'),
        )
        assert self.boxes(tmp_path) == {"images/train/a.png": 1, "images/Train/b.png": 1}

    def test_two_tasks_of_one_subset_are_refused(self, tmp_path: Path) -> None:
        paint(tmp_path, *(f"images/train/{name}.png" for name in "abcd"))
        path = self.write(tmp_path, self.project("train", "train"), (0, 'task_id="1" subset="train"'))
        with refused(path / "annotations.xml", "2 tasks of the subset 'train'", "dump each task by itself"):
            self.boxes(tmp_path)


class TestUltralytics:
    def test_subsets_of_any_name_and_case(self, tmp_path: Path) -> None:
        subsets = ("Train", "Validation", "Test", "train", "holdout")
        paint(tmp_path, *(f"images/{subset}/{subset[:2]}.png" for subset in subsets))
        lists = {f"{subset}.txt": f"data/images/{subset}/{subset[:2]}.png\n" for subset in subsets}
        labels = {f"labels/{subset}/{subset[:2]}.txt": "0 0.5 0.5 0.25 0.25\n" for subset in subsets}
        keys = "".join(f"{subset}: {subset}.txt\n" for subset in subsets)
        write(tmp_path, {**lists, **labels, "data.yaml": f"names:\n  0: bolt\npath: .\n{keys}"})
        found = said(yolo, tmp_path)
        assert found.subsets == {subset[:2]: subset for subset in subsets}
        assert len(found.dataset.boxes()) == len(subsets)
        assert found.findings == {}
        for subset in subsets:
            (tmp_path / f"{subset}.txt").unlink()
        keys = "".join(f"{subset}: images/{subset}\n" for subset in subsets)
        write(tmp_path, {"data.yaml": f"names: [bolt]\nnc: 1\ndownload: images/other\n{keys}"})
        assert said(yolo, tmp_path).subsets == found.subsets

    def test_outlines_of_masks(self, tmp_path: Path) -> None:
        paint(tmp_path, "images/train/a.png")
        outline = [(10, 20), (12, 18), (20, 18), (30, 24), (20, 28)]
        drawn = [(x + 0.25, y + 0.25) for x, y in outline]
        lines = "".join(
            f"0 {' '.join(f'{x / 64:.6f} {y / 48:.6f}' for x, y in points)}\n"
            for points in (outline, drawn, outline[:4])
        )
        write(tmp_path, {"labels/train/a.txt": lines, "data.yaml": "names: [bolt]\ntrain: images/train\n"})
        boxes = said(yolo, tmp_path).dataset.boxes().xywh * [64, 48, 64, 48]
        # Through the centres of pixels, drawn with a mouse, and four corners as oriented boxes have.
        assert boxes.tolist() == [
            pytest.approx(box, abs=1e-3) for box in ([10, 18, 20.5, 10.5], [10.25, 18.25, 20, 10], [10, 18, 20, 6])
        ]

    def test_pose_and_tracks(self, tmp_path: Path) -> None:
        paint(tmp_path, "images/train/a.png")
        write(tmp_path, {"labels/train/a.txt": "0 0.5 0.5 0.25 0.25 0.4 0.4 2 0.6 0.6 1\n"})
        write(tmp_path, {"data.yaml": "kpt_shape: [2, 3]\nnames: {0: fish}\npath: .\ntrain: images/train\n"})
        assert said(yolo, tmp_path).images == {"a": [("fish", 24, 18, 16, 12)]}
        write(tmp_path, {"labels/train/a.txt": "0 0.5 0.5 0.25 0.25 7\n", "data.yaml": "names: {0: fish}\n"})
        assert said(yolo, tmp_path).images == {"a": [("fish", 24, 18, 16, 12)]}
        write(tmp_path, {"data.yaml": "kpt_shape: [0, 3]\nnames: {}\ntrain: images/train\n"})
        with refused("data.yaml: 'names' is empty", "YOLO Pose holds skeletons only", "another format"):
            said(yolo, tmp_path)


def test_labelme_of_a_project(tmp_path: Path) -> None:
    names = ("train/a.png", "train/set 1/a.png", "val/a.png", "test/a.png")
    paint(tmp_path, *names)
    for name in names:
        folder = "set 1" if "set 1" in name else ""
        path = f"{folder}/" if folder else ""
        shape = f"<object><name>bolt</name><segm><mask>{path}a_mask_0.png</mask></segm></object>"
        text = f"<annotation><filename>a.png</filename><folder>{folder}</folder><imagesize/>{shape}</annotation>"
        write(tmp_path, {name.replace(".png", ".xml"): text})
        subset, _, rest = name.partition("/")
        shift = names.index(name)
        mask(tmp_path / subset / "Masks" / rest.replace(".png", "_mask_0.png"), {(shift, 0, shift + 9, 9): 255})
    found = said(labelme, tmp_path).dataset
    assert dict(zip(found.names, found.subsets, strict=True)) == {name: name.partition("/")[0] for name in names}
    assert found.boxes().xywh[:, 0].tolist() == [names.index(name) for name in found.names]
    report = prepare_data(tmp_path, dump_format="")
    assert report["images"] == {"train": 2, "val": 1, "without_boxes": 0}
    assert report["skipped"]["image of the dump's test subset: neither trained nor validated on"]["count"] == 1


class TestKitti:
    LINE = "wing nut 0.0 1 -1 10.0 20.0 30.0 28.0 -1 -1 -1 -1 -1 -1 -1 1.0\n"

    @pytest.fixture
    def dump(self, tmp_path: Path) -> Path:
        paint(tmp_path, "train/image_2/set 1/a.png", "val/image_2/b.png")
        write(tmp_path, {"train/label_2/set 1/a.txt": self.LINE, "val/label_2/b.txt": "bolt" + self.LINE[8:-5] + "\n"})
        return write(tmp_path, {"label_colors.txt": "0 0 0 background\n250 50 50 bolt\n1 2 3 wing nut\n"})

    def test_boxes(self, dump: Path) -> None:
        found = said(kitti, dump)
        assert found.images == {"a": [("wing nut", *BOX[1:])], "b": [BOX]}
        assert found.subsets == {"a": "train", "b": "val"}
        assert found.findings == {}
        assert len(said(kitti, dump, exclude=["occluded"]).dataset.boxes()) == 0

    def test_masks(self, dump: Path) -> None:
        path = dump / "val/instance/b.png"
        mask(path, {(2, 3, 11, 12): 256 + 1, (20, 3, 29, 12): 256 + 2, (40, 3, 49, 12): 2 * 256 + 1}, "I;16")
        assert said(kitti, dump).images["b"] == [
            BOX, ("bolt", 2, 3, 10, 10), ("bolt", 20, 3, 10, 10), ("wing nut", 40, 3, 10, 10)
        ]  # fmt: skip
        # As CVAT writes them: the class alone.
        mask(path, {(2, 3, 11, 12): 256, (20, 3, 29, 12): 256}, "I;16")
        assert said(kitti, dump).images["b"] == [BOX]
        with refused("has 2 boxes, and shows 1 groups of objects", "COCO 1.0", "--max-lost 100"):
            prepare_data(dump, dump_format="")
        report = prepare_data(dump, dump_format="KITTI 1.0", max_lost=100)
        assert report["lost"]["objects of a class in one mask, not told apart"]["count"] == 1
        assert report["dump_format"] == kitti.TAG

    @pytest.mark.parametrize(
        ("line", "words"),
        [
            ("bolt 0 0 -1 1 2 3", ["line 1 has 7 fields"]),
            ("bolt" + " 1" * 7 + " x" + " 1" * 7, ["line 1: a field is 'x', expected a number"]),
        ],
    )
    def test_malformed(self, dump: Path, line: str, words: list[str]) -> None:
        path = dump / "val/label_2/b.txt"
        path.write_text(line)
        with refused(path, *words, "dump the task again"):
            said(kitti, dump)

    def test_broken_masks_and_colours(self, dump: Path) -> None:
        path = dump / "val/instance/b.png"
        mask(path, {})
        # The pixels end before they should.
        content = bytearray(path.read_bytes())
        content[content.index(b"IDAT") - 1] -= 5
        path.write_bytes(content)
        with refused(path, "not readable as a mask (broken PNG file"):
            said(kitti, dump)
        path.write_text("no image")
        with refused(path, "not readable as a mask"):
            said(kitti, dump)
        mask(path, {})
        with refused(path, "not a mask of one channel of whole numbers"):
            said(kitti, dump)
        write(dump, {"label_colors.txt": "0 0 background\n"})
        with refused(dump / "label_colors.txt", "line 1: expected 'red green blue name'"):
            said(kitti, dump)


class TestOpenImages:
    HEAD = (
        "ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,"
        "IsOccluded,IsTruncated,IsGroupOf,IsDepiction,IsInside\n"
    )
    MASKS = "MaskPath,ImageID,LabelName,BoxID,BoxXMin,BoxXMax,BoxYMin,BoxYMax,PredictedIoU,Clicks\n"
    BOXES = "annotations/train-annotations-bbox.csv"

    @pytest.fixture
    def dump(self, tmp_path: Path) -> Path:
        paint(tmp_path, "images/train/set 1/a.png", "images/val/a.png")
        mask(tmp_path / "masks/val/a_bolt_0.png", {(2, 3, 11, 12): 1}, "L")
        return write(
            tmp_path,
            {
                "annotations/class-descriptions.csv": "bolt,bolt\n/m/1,wing nut\n",
                "annotations/train-images-with-rotation.csv": "ImageID,Subset\nset 1/a,train\n",
                "annotations/val-images-with-rotation.csv": "ImageID,Subset\na,val\n",
                self.BOXES: self.HEAD + "set 1/a,,/m/1,1,0.25,0.5,0.5,0.75,1,-1,-1,-1,-1\n"
                "set 1/a,,bolt,1,0,1,0,1,-1,-1,1,-1,-1\n",
                "annotations/val-annotations-object-segmentation.csv": self.MASKS + "a_bolt_0.png,a,bolt,0,,,,,,\n",
            },
        )

    def test_boxes_and_masks(self, dump: Path) -> None:
        dataset = said(open_images, dump).dataset
        boxes = dataset.boxes()
        assert dataset.names == ["images/train/set 1/a", "images/val/a"]
        assert dataset.subsets == ["train", "val"]
        assert [dataset.categories[category].name for category in boxes.category] == ["wing nut", "bolt", "bolt"]
        assert boxes.xywh.tolist() == [[0.25, 0.5, 0.25, 0.25], [0, 0, 1, 1], [2, 3, 10, 10]]
        assert boxes.crowd.tolist() == [False, True, False]
        assert len(said(open_images, dump, exclude=["occluded"]).dataset.boxes()) == 2
        # A mask that has a box as well is one object.
        row = "a_bolt_0.png,a,bolt,0,0.1,0.2,0.1,0.2,,\n"
        write(dump, {"annotations/val-annotations-object-segmentation.csv": self.MASKS + row})
        assert len(said(open_images, dump).dataset.boxes()) == 2

    @pytest.mark.parametrize(
        ("content", "words"),
        [
            ("LabelName\nbolt\n", ["has no column 'ImageID'"]),
            ("ImageID,LabelName\na,bolt\n", ["line 2: there is no column 'XMin'"]),
            (HEAD + "a,bolt\n", ["line 2 has 2 fields, expected 13"]),
            (HEAD + "a,,bolt,1,left,1,0,1,1,1,1,1,1\n", ["line 2: 'XMin' is 'left', expected a number"]),
        ],
    )
    def test_malformed(self, dump: Path, content: str, words: list[str]) -> None:
        (dump / self.BOXES).write_text(content)
        with refused(dump / self.BOXES, *words, "dump the task again"):
            said(open_images, dump)

    def test_mask_that_is_missing_or_broken(self, dump: Path) -> None:
        path = dump / "masks/val/a_bolt_0.png"
        path.write_text("no image")
        with refused(path, "not readable as a mask"):
            said(open_images, dump)
        path.unlink()
        with refused("line 2: the mask 'a_bolt_0.png' is missing"):
            said(open_images, dump)


def test_segmentation_mask(tmp_path: Path) -> None:
    paint(tmp_path, *(f"JPEGImages/{name}.png" for name in ("set 1/a", "b", "c")))
    write(tmp_path, {"labelmap.txt": "# label:color_rgb:parts:actions\nbackground:0,0,0::\nbolt:9,8,7::\n"})
    write(tmp_path, {"ImageSets/Segmentation/train.txt": "set 1/a\n", "ImageSets/Segmentation/val.txt": "b\n"})
    for name in ("set 1/a", "b"):
        parts = ((2, 3, 11, 12), (12, 3, 21, 12))
        mask(tmp_path / f"SegmentationClass/{name}.png", dict.fromkeys(parts, (9, 8, 7)))
        mask(tmp_path / f"SegmentationObject/{name}.png", {parts[0]: (128, 0, 0), parts[1]: (0, 128, 0)})
    assert segmentation_mask.recognise(tmp_path)
    found = said(segmentation_mask, tmp_path)
    objects = [("bolt", 2, 3, 10, 10), ("bolt", 12, 3, 10, 10)]
    # An image of which nothing is painted is in no list.
    assert {name: sorted(boxes, reverse=True) for name, boxes in found.images.items()} == {
        "a": sorted(objects, reverse=True), "b": sorted(objects, reverse=True), "c": []
    }  # fmt: skip
    assert found.subsets == {"a": "train", "b": "val", "c": ""}
    assert prepare_data(tmp_path, dump_format="")["dump_format"] == segmentation_mask.TAG


class TestBackup:
    """A task's own backup, whose shapes are as CVAT's API has them."""

    @staticmethod
    def shape(kind: str, frame: int, *points: float, **fields: Any) -> dict[str, Any]:
        common = {"occluded": False, "outside": False, "rotation": 0.0, "attributes": [], "label": "bolt"}
        return {"type": kind, "frame": frame, "points": list(points), **common, **fields}

    def write(
        self,
        root: Path,
        *shapes: dict[str, Any],
        tracks: Any = (),
        images: str = "ab",
        kind: str = "images",
        stop: int | None = None,
        **data: Any,
    ) -> Path:
        paint(root, *(f"data/set 1/{name}.png" for name in images))
        # Not in the order of their names.
        entries = [{"name": f"set 1/{name}", "extension": ".png", "width": 64, "height": 48} for name in images[::-1]]
        manifest = [{"version": "1.1"}, {"type": kind}, *entries]
        stop = len(images) - 1 if stop is None else stop
        jobs = [{"start_frame": 0, "stop_frame": stop, "type": "annotation"}, {"type": "ground_truth"}]
        task = {"name": "t", "subset": "train", "labels": [{"name": "bolt"}], "jobs": jobs, "data": data}
        annotations = [{"version": 0, "tags": [], "shapes": shapes, "tracks": tracks}, {"shapes": shapes}]
        return write(
            root,
            {
                "task.json": json.dumps(task),
                "annotations.json": json.dumps(annotations),
                "data/manifest.jsonl": "\n".join(map(json.dumps, manifest)),
            },
        )

    def test_shapes(self, tmp_path: Path) -> None:
        self.write(
            tmp_path,
            self.shape("rectangle", 1, 10, 20, 30, 28),
            self.shape("rectangle", 0, 10, 20, 30, 28, rotation=90.0),
            self.shape("ellipse", 0, 30, 20, 40, 15),
            self.shape("polygon", 0, 1, 2, 9, 4, 5, 8),
            self.shape("mask", 0, 1, 2, 1, 4, 5, 7, 8, 8),
            self.shape("skeleton", 0),
            self.shape("rectangle", 0) | {"type": ["?"]},
        )
        assert [reader for reader in (cvat_backup, coco, cvat_xml) if reader.recognise(tmp_path)] == [cvat_backup]
        found = said(cvat_backup, tmp_path)
        assert found.images == {
            "b": [
                ("bolt", *(pytest.approx(value) for value in box))
                for box in ((16, 14, 8, 20), (20, 15, 20, 10), (1, 2, 8, 6), (5, 7, 4, 2))
            ],
            "a": [BOX],
        }
        assert found.subsets == {"a": "train", "b": "train"}
        assert found.findings == {
            "skipped": {"skeleton, which has no box": 1, "annotation of an unknown type, which has no box": 1}
        }
        assert prepare_data(tmp_path, val_split=0, dump_format=cvat_backup.TITLE)["boxes"]["train"] == 5

    def test_tracks(self, tmp_path: Path) -> None:
        keyframes = [
            self.shape("rectangle", 0, 0, 0, 10, 10, rotation=350.0),
            self.shape("rectangle", 2, 20, 0, 30, 10, rotation=10.0),
            self.shape("rectangle", 4, 20, 0, 30, 10, outside=True),
        ]
        tracks = [{"label": "bolt", "frame": 0, "shapes": keyframes}]
        tracks += [{"label": "bolt", "frame": 4, "shapes": [self.shape("rectangle", 4, 1, 1, 3, 3)]}]
        self.write(tmp_path, tracks=tracks, images="abcdef", deleted_frames=[3])
        found = said(cvat_backup, tmp_path).images
        turned = [("bolt", *map(pytest.approx, box)) for box in ((10, 0, 10, 10),)]
        assert {name: len(boxes) for name, boxes in found.items()} == {"f": 1, "e": 1, "d": 1, "b": 1, "a": 1}
        assert (found["e"], found["a"]) == (turned, [("bolt", 1, 1, 2, 2)])

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            ({"kind": "video"}, ["manifest.jsonl", "is a video", "CVAT for images 1.1"]),
            ({"frame_filter": "step=2"}, ["task.json", "a part of its images", "CVAT for images 1.1"]),
            ({"deleted_frames": [[]]}, ["task.json: 'deleted_frames' is []"]),
            ({"stop": 10**12}, ["task.json: jobs[0] has the frames 0 to 1000000000000 of 2 images"]),
            ({"tracks": 3}, ["annotations.json: [0]", "'tracks' is not a list"]),
            ({"tracks": [{}]}, ["tracks[0]", "'shapes' is not a list"]),
        ],
    )
    def test_refused(self, tmp_path: Path, options: dict[str, Any], words: list[str]) -> None:
        self.write(tmp_path, **options)
        with refused(*words):
            said(cvat_backup, tmp_path)

    @pytest.mark.parametrize(
        ("fields", "words"),
        [
            ({"frame": 2}, ["shapes[0] is on frame 2, but there are 2 images"]),
            ({"frame": "x"}, ["shapes[0]", "'frame' is 'x'"]),
            ({"attributes": 3}, ["'attributes' is not a list"]),
            ({"points": [1, 2, 3]}, ["'points' of a rectangle has 3 numbers"]),
            ({"points": ["x"]}, ["'points' is 'x', expected a number"]),
        ],
    )
    def test_malformed(self, tmp_path: Path, fields: dict[str, Any], words: list[str]) -> None:
        self.write(tmp_path, self.shape("rectangle", 0, 1, 2, 3, 4) | fields)
        with refused(tmp_path / "annotations.json", *words):
            said(cvat_backup, tmp_path)

    def test_without_a_manifest(self, tmp_path: Path) -> None:
        (self.write(tmp_path) / "data/manifest.jsonl").unlink()
        with refused("manifest.jsonl is missing", "CVAT for images 1.1"):
            said(cvat_backup, tmp_path)
