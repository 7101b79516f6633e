from __future__ import annotations

import json
import random
import shutil
import zipfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from pipelines.local.sample import draw_sample
from steps.prepare import prepare_data
from tests.trainer.drawing import CATEGORIES, write_annotations
from trainer.data import leakage
from trainer.data.checks import look_over
from trainer.data.coco_dataset import CocoDetection, annotation_file
from trainer.data.transforms import EvalTransform
from trainer.errors import TrainerError

Box = tuple[int, list[float]]
SIZE = (160, 120)


def ground(rng: np.random.Generator, width: int, height: int) -> Image.Image:
    """A blurred pattern that no other seed gives."""
    coarse = rng.integers(0, 256, (max(2, height // 12), max(2, width // 12), 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def split(folder: Path, name: str, pictures: Iterable[tuple[str, Image.Image, list[Box]]]) -> None:
    """Writes images and a COCO file."""
    content: dict = {"images": [], "annotations": [], "categories": CATEGORIES}
    (folder / "images").mkdir(parents=True, exist_ok=True)
    for number, (file, picture, boxes) in enumerate(pictures):
        picture.save(folder / "images" / file)
        row = {"id": number, "file_name": f"images/{file}", "width": picture.width, "height": picture.height}
        content["images"].append(row)
        for category, box in boxes:
            content["annotations"].append({"image_id": number, "category_id": category, "bbox": box})
    write_annotations(folder, name, content)


def varied(
    count: int, seed: int, prefix: str, boxes: Iterable[Box] = ((4, [10, 10, 40, 30]), (17, [60, 50, 50, 40]))
) -> list[tuple[str, Image.Image, list[Box]]]:
    """Images that have nothing in common."""
    rng = np.random.default_rng(seed)
    return [(f"{prefix}{number}.png", ground(rng, *SIZE), list(boxes)) for number in range(count)]


def lines_of(folder: Path, *, num_queries: int = 10, image_size: int = 120, max_size: int = 200) -> list[str]:
    transform = EvalTransform(image_size, max_size)
    train = CocoDetection(annotation_file(folder, "train"), transform)
    val = CocoDetection(annotation_file(folder, "val"), transform, classes=train.categories)
    return look_over(train, val, max_objects=("num_queries", num_queries), image_size=image_size, max_size=max_size)


@pytest.fixture
def sound(tmp_path: Path) -> Path:
    """A dataset about which there is nothing to say."""
    split(tmp_path, "train", varied(20, 0, "a"))
    split(tmp_path, "val", varied(26, 1, "b"))
    return tmp_path


def test_sound_data_give_no_line(sound: Path):
    assert lines_of(sound) == []


def test_classes_without_or_with_few_boxes_are_named(sound: Path):
    pictures = varied(20, 0, "a", [(4, [10, 10, 40, 30])])
    split(sound, "train", pictures)
    (line,) = lines_of(sound)
    assert line.startswith("no training image has a box of class bolt: ")
    pictures[0][2].append((17, [60, 50, 50, 40]))
    split(sound, "train", pictures)
    (line,) = lines_of(sound)
    assert line.startswith("fewer than 10 training boxes of class bolt (1), where the most frequent class has 20: ")
    split(sound, "train", varied(20, 0, "a"))
    split(sound, "val", varied(50, 1, "b", [(17, [10, 10, 40, 30])]))
    (line,) = lines_of(sound)
    assert line.startswith("no validation image has a box of class nut: ")


def test_a_small_validation_set_is_named(sound: Path):
    split(sound, "val", varied(3, 1, "b"))
    (line,) = lines_of(sound)
    assert line.startswith("3 validation images with 6 boxes are few: ")
    split(sound, "val", [])
    (line,) = lines_of(sound)
    assert line.startswith("there are no validation images: ")
    split(sound, "val", varied(30, 1, "b", []))
    (line,) = lines_of(sound)
    assert line.startswith("there are no boxes on the validation images: ")


def test_more_objects_than_queries_give_a_number_to_set(sound: Path):
    crowd = [(4, [float(x), float(y), 20.0, 20.0]) for x in range(0, 140, 20) for y in range(0, 100, 20)]
    split(sound, "val", [*varied(26, 1, "b"), *varied(1, 2, "crowd", crowd)])
    (line,) = lines_of(sound, num_queries=34)
    assert line == (
        "1 image(s) have more boxes than the 34 that the model finds at most, the fullest 35: set num_queries to 50"
    )
    assert lines_of(sound, num_queries=35) == []


def test_the_size_that_is_proposed_for_small_boxes_is_large_enough(sound: Path):
    split(sound, "train", varied(20, 0, "a", [(4, [10, 10, 40, 30]), (17, [60, 50, 20, 8])]))
    assert lines_of(sound, image_size=60, max_size=100) == []
    (line,) = lines_of(sound, image_size=40, max_size=53)
    assert line == (
        "20 of 40 training boxes are less than 4 px wide or high at image_size 40, of bolt (20): they will not be"
        " found; raise image_size to 64 and max_size to 85"
    )
    assert lines_of(sound, image_size=64, max_size=85) == []
    # Where the limit of the longer side is what makes them small.
    (line,) = lines_of(sound, image_size=120, max_size=53)
    assert "less than 4 px wide or high at image_size 120" in line
    split(sound, "train", varied(20, 0, "a", [(4, [10, 10, 40, 30]), (17, [60, 50, 1, 1])]))
    (line,) = lines_of(sound)
    assert line.endswith("cut the images into tiles, or leave such boxes out")


def test_validating_on_the_training_set_is_all_that_is_said_of_it(sound: Path):
    shutil.copy(annotation_file(sound, "train"), annotation_file(sound, "val"))
    (line,) = lines_of(sound)
    assert line.startswith("the validation images are the training images: ")


def test_copies_in_both_sets_are_named(sound: Path):
    images = sound / "images"
    shutil.copy(images / "a7.png", images / "b3.png")
    (line,) = lines_of(sound)
    assert line.startswith("1 of 26 validation images are training images too (b3.png is a7.png): ")


def test_copies_in_other_bytes_are_named(sound: Path):
    images = sound / "images"
    for number in (2, 5, 11):
        # Smaller and compressed again, under another name.
        copy = Image.open(images / f"a{number}.png").resize((120, 90)).resize(SIZE)
        copy.save(images / f"b{number + 1}.png", "JPEG", quality=70)
    (line,) = lines_of(sound)
    assert line.startswith("3 of 26 validation images looked at are nearly a training image (b3.png and a2.png), ")


def moving_thing(frames: int) -> Iterable[Image.Image]:
    """A thing that goes its way before a fixed camera."""
    still = ground(np.random.default_rng(3), *SIZE)
    for number in range(frames):
        picture = still.copy()
        x = 5 + 2 * number % 100
        ImageDraw.Draw(picture).rectangle([x, 60, x + 30, 90], fill=(250, 30, 30))
        yield picture


def moving_camera(frames: int) -> Iterable[Image.Image]:
    """A view that passes over a wide ground."""
    wide = ground(np.random.default_rng(4), SIZE[0] + 2 * frames, SIZE[1])
    for number in range(frames):
        yield wide.crop((2 * number, 0, 2 * number + SIZE[0], SIZE[1]))


@pytest.mark.parametrize("film", [moving_thing, moving_camera])
def test_neighbouring_frames_are_named_unless_split_by_blocks(tmp_path: Path, film):
    # Numbers without leading zeros, so that the order by name is not that of the text.
    frames = [(f"frame{n}.png", picture, [(4, [9, 9, 40, 30]), (17, [50, 50, 50, 40])]) for n, picture in
              enumerate(film(130))]  # fmt: skip
    mixed = random.Random(0).sample(range(130), 30)
    split(tmp_path, "train", [frame for n, frame in enumerate(frames) if n not in mixed])
    split(tmp_path, "val", [frame for n, frame in enumerate(frames) if n in mixed])
    (line,) = lines_of(tmp_path)
    alike, _, looked_at = line.split()[:3]
    assert int(alike) > 25
    assert int(looked_at) == 30
    if film is moving_camera:
        split(tmp_path, "train", frames[:100])
        split(tmp_path, "val", frames[100:])
        assert lines_of(tmp_path) == []


def test_a_fixed_camera_alone_is_no_leak(tmp_path: Path):
    rng = np.random.default_rng(5)
    still = ground(rng, *SIZE)

    def things(count: int, prefix: str) -> Iterable[tuple[str, Image.Image, list[Box]]]:
        for number in range(count):
            picture, boxes = still.copy(), []
            for category in (4, 17):
                x, y, side = rng.integers(0, 110), rng.integers(0, 70), rng.integers(20, 45)
                colour = tuple(int(level) for level in rng.integers(0, 256, 3))
                ImageDraw.Draw(picture).rectangle([x, y, x + side, y + side], fill=colour)
                boxes.append((category, [int(x), int(y), int(side), int(side)]))
            yield f"{prefix}{number}.png", picture, boxes

    split(tmp_path, "train", things(60, "frame1"))
    split(tmp_path, "val", things(26, "frame2"))
    assert lines_of(tmp_path) == []


def test_images_of_another_size_than_listed_are_named(sound: Path):
    Image.open(sound / "images" / "a4.png").rotate(90, expand=True).save(sound / "images" / "a4.png")
    (line,) = lines_of(sound)
    assert line.startswith(
        "1 of 46 images looked at are not of the size that the annotations are for"
        " (a4.png is 120x160, listed as 160x120): "
    )


def test_many_images_are_looked_at_in_part(sound: Path, monkeypatch: pytest.MonkeyPatch):
    opened: list[Path] = []

    def read(file: Path, side: int):
        opened.append(file)
        return read_thumbnail(file, side)

    read_thumbnail = leakage.read_thumbnail
    monkeypatch.setattr(leakage, "read_thumbnail", read)
    monkeypatch.setattr(leakage, "_MOST_LOOKED_AT", 20)
    frames = [(f"f{n:03}.png", picture, [(4, [9, 9, 40, 30]), (17, [50, 50, 50, 40])]) for n, picture in
              enumerate(moving_camera(90))]  # fmt: skip
    split(sound, "train", [frame for n, frame in enumerate(frames) if n % 3])
    split(sound, "val", frames[::3])
    # Neighbours are found though most images are not opened.
    (line,) = lines_of(sound)
    assert line.startswith("5 of 5 validation images looked at")
    assert len(opened) == len(set(opened)) <= 20


def test_a_broken_image_is_found_before_the_training(sound: Path):
    (sound / "images" / "b2.png").write_bytes(b"not an image")
    with pytest.raises(TrainerError, match=r"b2\.png cannot be read"):
        lines_of(sound)


def test_the_drawn_sample_is_sound(tmp_path: Path):
    prepare_data(draw_sample(tmp_path, 200))
    assert lines_of(tmp_path, num_queries=20, image_size=64, max_size=128) == []


def test_of_real_images_only_what_is_so_is_said(tmp_path: Path, shared_dump: Path):
    zipfile.ZipFile(shared_dump).extractall(tmp_path)
    prepare_data(tmp_path)
    assert lines_of(tmp_path, num_queries=100, image_size=800, max_size=1333) == []
    content = json.loads(annotation_file(tmp_path, "train").read_text())
    content["annotations"] = [a for a in content["annotations"] if a["category_id"] == 1]
    del content["info"]
    annotation_file(tmp_path, "train").write_text(json.dumps(content))
    assert any("no training image has a box" in line for line in lines_of(tmp_path, num_queries=100))
