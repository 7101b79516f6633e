"""Small dumps that ask for much: each is read or refused within the limits of `steps.common.budgets`."""

from __future__ import annotations

import json
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.steps.formats.dumps import record_file
from tests.steps.limits import assert_one_line, run_within_limits

IMAGE = "images/a.png"
MB = 1_000_000


def write(root: Path, files: dict[str, str]) -> None:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content)
    if not (root / IMAGE).is_file():
        (root / "images").mkdir(exist_ok=True)
        Image.new("RGB", (64, 48)).save(root / IMAGE)


def yolo(root: Path, settings: str) -> None:
    write(root, {"data.yaml": settings, "labels/a.txt": "0 0.5 0.5 0.2 0.2\n"})


def alias_bomb(root: Path) -> None:
    levels = "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 13))
    yolo(root, f"train: images\na0: &a0 [x]\n{levels}names: *a12\n")


def sexagesimal(root: Path) -> None:
    yolo(root, f"train: images\nnames: [{'1:' * 400_000}1]\n")


def empty_integer(root: Path) -> None:
    yolo(root, "train: images\nnames: [!!int '', bolt]\n")


def merge_bomb(root: Path) -> None:
    """Mappings that take in those before them, nine times each."""
    levels = "".join(f"a{n}: &a{n}\n  <<: [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 13))
    yolo(root, f"train: images\na0: &a0 {{k: x}}\n{levels}names: *a12\n")


def segments_of_jpeg(count: int) -> Callable[[Path], None]:
    def make(root: Path) -> None:
        yolo(root, "train: images\nnames: [bolt]\n")
        file = BytesIO()
        Image.new("RGB", (64, 48)).save(file, "JPEG")
        (root / IMAGE).write_bytes(file.getvalue()[:2] + b"\xff\xe5\0\2" * count + file.getvalue()[2:])

    return make


def classes_of_yaml(root: Path) -> None:
    yolo(root, f"train: images\nnames: [{', '.join(f'c{n}' for n in range(100_000))}]\n")


def subsets_of_yaml(root: Path) -> None:
    names = "".join(f"s{n}: [f{n}/images, g/h/i/j/k/images]\n" for n in range(20_000))
    yolo(root, f"names: [bolt]\n{names}train: images\n")
    write(root, {f"labels/{n}.txt": "" for n in range(3_000)})


def deep_folder_of_yaml(root: Path) -> None:
    yolo(root, f"names: [bolt]\ntrain: {'a/' * 400_000}\n")


def masks_of_coco(root: Path) -> None:
    """Files of CVAT's, whose masks are looked at pixel by pixel: few runs, and a thousand billion pixels each."""
    categories = [{"id": 1, "name": "bolt"}]
    images = [{"id": 1, "file_name": "a.png", "width": 64, "height": 48}]
    mask = {"size": [1_000_001, 1_000_001], "counts": [5, 1_000_000_000_000]}
    boxes = [
        {"id": n, "image_id": 1, "category_id": 1, "bbox": [1, 1, 9, 9], "segmentation": mask,
         "attributes": {"occluded": False}}
        for n in range(40_000)
    ]  # fmt: skip
    info = dict.fromkeys(("contributor", "date_created", "description", "url", "version", "year"), "")
    document = {"info": info, "images": images, "annotations": boxes, "categories": categories}
    write(root, {"annotations/instances_default.json": json.dumps(document)})


def label_map(content: str) -> Callable[[Path], None]:
    def make(root: Path) -> None:
        write(root, {"label_map.pbtxt": content})
        record_file(root / "default.tfrecord", [{"image/filename": [b"a.png"]}])

    return make


def noisy_masks(side: int, shades: int) -> Callable[[Path], None]:
    def make(root: Path) -> None:
        write(root, {"labelmap.txt": "bolt:1,0,0::\n", "ImageSets/Segmentation/default.txt": "a\n"})
        noise = np.random.default_rng(0).integers(0, shades, (side // 10, side // 10), np.uint8).repeat(10, 0)
        image = Image.fromarray(noise.repeat(10, 1))
        image.putpalette([value for shade in range(256) for value in (shade, 0, 0)])
        for folder in ("SegmentationObject", "SegmentationClass"):
            (root / folder).mkdir()
            image.save(root / folder / "a.png")

    return make


def finely_noisy_masks(root: Path) -> None:
    noisy_masks(100, 2)(root)
    noise = np.random.default_rng(0).integers(0, 1 << 24, (1_200, 1_200))
    image = Image.fromarray(np.stack([noise >> 16, noise >> 8, noise], 2).astype(np.uint8))
    for folder in ("SegmentationObject", "SegmentationClass"):
        image.save(root / folder / "a.png")


def long_attribute(root: Path) -> None:
    box = f'<box label="{"x" * 100 * MB}" xtl="1" ytl="1" xbr="9" ybr="9" occluded="0"/>'
    image = f'<image id="0" name="a.png" width="64" height="48">{box}</image>'
    write(root, {"annotations.xml": f"<annotations><version>1.1</version>{image}</annotations>"})


def many_tracks(root: Path) -> None:
    names = [{"name": f"f{n}", "extension": ".png", "width": 64, "height": 48} for n in range(1_000)]
    job = {"start_frame": 0, "stop_frame": 999, "type": "annotation"}
    shape = {"type": "rectangle", "frame": 0, "points": [1, 1, 9, 9]}
    tracks = [{"label": "bolt", "shapes": [shape]}] * 20_000
    write(
        root,
        {
            "task.json": json.dumps({"labels": [{"name": "bolt"}], "data": {}, "jobs": [job]}),
            "annotations.json": json.dumps([{"shapes": [], "tracks": tracks}]),
            "data/manifest.jsonl": "\n".join(map(json.dumps, names)),
        },
    )


def many_jobs(root: Path) -> None:
    many_tracks(root)
    manifest = root / "data" / "manifest.jsonl"
    manifest.write_text(f"{manifest.read_text()}\n" * 8)
    jobs = [{"start_frame": 0, "stop_frame": 7_999}] * 60_000
    write(
        root,
        {
            "task.json": json.dumps({"labels": [{"name": "bolt"}], "data": {}, "jobs": jobs}),
            "annotations.json": json.dumps([{}] * 60_000),
        },
    )


def deep_names(root: Path) -> None:
    images = [{"id": n, "file_name": "a/" * 40_000 + f"{n}.png", "width": 64, "height": 48} for n in range(100)]
    document = {"images": images, "annotations": [], "categories": [{"id": 1, "name": "bolt"}]}
    write(root, {"annotations/instances_default.json": json.dumps(document)})


def marks_of_names(root: Path) -> None:
    """Canonical order sorts the marks of a letter, one by one past the others."""
    name = "a" + "\u0315\u0300" * 400_000
    images = [{"id": 1, "file_name": f"{name}.png", "width": 64, "height": 48}]
    document = {"images": images, "annotations": [], "categories": [{"id": 1, "name": "bolt"}]}
    write(root, {"annotations/instances_default.json": json.dumps(document, ensure_ascii=False)})


BOMBS: dict[str, Callable[[Path], None]] = {
    "aliases": alias_bomb,
    "sexagesimal number": sexagesimal,
    "empty integer": empty_integer,
    "classes of yaml": classes_of_yaml,
    "subsets of yaml": subsets_of_yaml,
    "deep folder of yaml": deep_folder_of_yaml,
    "masks of coco": masks_of_coco,
    "label map of spaces": label_map("item" + " " * MB + "x"),
    "label map of names": label_map("item { id: 1 " + "name:'-" * 140_000),
    "noisy masks": noisy_masks(13_300, 2),
    "large noisy masks": noisy_masks(7_900, 256),
    "finely noisy masks": finely_noisy_masks,
    "long attribute": long_attribute,
    "many tracks": many_tracks,
    "many jobs": many_jobs,
    "deep names": deep_names,
    "marks of names": marks_of_names,
    "merges": merge_bomb,
    # As many as fit into 10 MB, and as an attack had them: the time is in proportion.
    "segments of a jpeg": segments_of_jpeg(2_499_000),
    "forty million segments of a jpeg": segments_of_jpeg(40_000_000),
}
QUICK = ("aliases", "empty integer", "label map of names", "long attribute", "many tracks", "segments of a jpeg")


@pytest.mark.parametrize(
    "make",
    [pytest.param(make, id=name, marks=() if name in QUICK else pytest.mark.slow) for name, make in BOMBS.items()],
)
def test_takes_no_more_than_it_may(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path)
    assert_one_line(run_within_limits("prepare", "--dataset-dir", tmp_path))
