"""How images are divided: by class, by chance, by blocks of frames, by folder, or as the dump says."""

from __future__ import annotations

import itertools
import json
import logging
import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from steps.dataset.findings import Findings
from steps.dataset.model import Boxes, Category
from steps.preparation.clean import Clean
from steps.preparation.split import split_images
from steps.preparation.video import likely_video
from steps.prepare import prepare_data
from tests.conftest import write_coco_dump
from tests.steps.refusals import refused


def data_of(labels: dict[str, Sequence[int]], subsets: dict[str, str] | None = None) -> Clean:
    """Images by name, with a box of each class that is given."""
    files = sorted(labels)
    rows = [(number, label) for number, file in enumerate(files) for label in labels[file]]
    boxes = Boxes(
        np.array([image for image, _ in rows], np.int64),
        np.array([label for _, label in rows], np.int64),
        np.tile([1.0, 1.0, 5.0, 5.0], (len(rows), 1)),
        np.zeros(len(rows), bool),
        np.zeros(len(rows), bool),
    )
    count = max((label for _, label in rows), default=0) + 1
    categories = [Category(number + 1, f"class {number}") for number in range(count)]
    return Clean(files, [(subsets or {}).get(file, "") for file in files], [(64, 64)] * len(files), boxes, categories)


def divide(data: Clean, method: Any, val_split: int = 20, seed: int = 0) -> tuple[set[str], set[str]]:
    train, val = split_images(data, method, val_split, seed, Findings())
    assert train == sorted(set(train))
    assert val == sorted(set(val))
    return {data.files[image] for image in train}, {data.files[image] for image in val}


def many(count: int = 200, seed: int = 0) -> dict[str, list[int]]:
    """Images of a long tail of classes, some without any."""
    draw = random.Random(seed)
    weights = [1 / (rank + 1) ** 2 for rank in range(12)]
    return {f"images/{number:04}.jpg": draw.choices(range(12), weights, k=draw.randrange(5)) for number in range(count)}


class TestStratified:
    @pytest.mark.parametrize("seed", range(5))
    @pytest.mark.parametrize("val_split", [5, 20, 50, 90])
    def test_classes_are_on_both_sides(self, seed: int, val_split: int) -> None:
        labels = many(seed=seed)
        train, val = divide(data_of(labels), "stratified", val_split, seed)
        assert not train & val
        assert train | val == set(labels)
        images_of = Counter(label for found in labels.values() for label in set(found))
        for label, count in images_of.items():
            in_val = sum(label in labels[file] for file in val)
            assert count < 2 or 0 < in_val < count, f"class {label}: {in_val} of {count}"
            assert count > 1 or not in_val

    def test_share_is_kept(self) -> None:
        _, val = divide(data_of(many(1000)), "stratified", 20)
        assert len(val) == pytest.approx(200, abs=5)

    def test_large_classes_have_the_share_too(self) -> None:
        labels = many(1000)
        _, val = divide(data_of(labels), "stratified", 20)
        for label in range(4):
            count = sum(label in found for found in labels.values())
            assert sum(label in labels[file] for file in val) == pytest.approx(0.2 * count, rel=0.25)

    def test_images_without_boxes_are_on_both_sides(self) -> None:
        labels = many(1000)
        _, val = divide(data_of(labels), "stratified", 20)
        empty = [file for file, found in labels.items() if not found]
        assert len(val.intersection(empty)) == pytest.approx(0.2 * len(empty), abs=5)

    def test_rare_class_that_chance_leaves_out(self) -> None:
        labels = {f"{number:03}.jpg": [0] for number in range(100)}
        labels["000.jpg"] = labels["001.jpg"] = [0, 1]
        missed = 0
        for seed in range(20):
            _, val = divide(data_of(labels), "random", 10, seed)
            missed += not val & {"000.jpg", "001.jpg"}
            _, val = divide(data_of(labels), "stratified", 10, seed)
            assert len(val & {"000.jpg", "001.jpg"}) == 1
            assert len(val) == 10
        assert missed

    def test_class_that_is_never_the_rarest(self) -> None:
        # Class 0 occurs only beside rarer ones, each of which has its image on either side already.
        labels = {f"{number}.jpg": [0, number // 2 + 1] for number in range(6)}
        for seed in range(10):
            _, val = divide(data_of(labels), "stratified", 20, seed)
            assert 0 < len(val) < 6

    def test_class_that_others_leave_on_one_side(self) -> None:
        # Class 9 is in an image of each of four rarer ones, whose other images may be all that validate.
        labels = {
            f"{label}{number}.jpg": [9, label] if not number else [label] for label in range(4) for number in range(3)
        }
        for seed in range(40):
            _, val = divide(data_of(labels), "stratified", 30, seed)
            assert 0 < sum(9 in labels[file] for file in val) < 4

    @pytest.mark.parametrize("method", ["stratified", "random", "blocks"])
    def test_another_image_moves_few(self, method: str) -> None:
        labels = many(300)
        _, before = divide(data_of(labels), method)
        for number in range(10):
            _, after = divide(data_of({**labels, f"images/x{number}.jpg": [number]}), method)
            assert len(before ^ after) <= 16


class TestRandom:
    def test_share_and_seed(self) -> None:
        data = data_of(many(100))
        sets = [divide(data, "random", 30, seed)[1] for seed in (0, 0, 1)]
        assert [len(val) for val in sets] == [30] * 3
        assert sets[0] == sets[1] != sets[2]


class TestBlocks:
    def frames(self, count: int, name: str = "images/frame_{:06}.png", step: int = 1) -> dict[str, list[int]]:
        return {name.format(number * step): [0] for number in range(count)}

    @pytest.mark.parametrize("step", [1, 5])
    @pytest.mark.parametrize("count", [100, 1000])
    def test_neighbours_stay_together(self, count: int, step: int) -> None:
        labels = self.frames(count, step=step)
        train, val = divide(data_of(labels), "blocks", 20)
        assert len(val) == pytest.approx(0.2 * count, rel=0.3)
        files = sorted(labels)
        borders = sum((one in val) != (other in val) for one, other in itertools.pairwise(files))
        # Of twenty blocks four or five validate, and each has two ends.
        assert 0 < borders <= 12
        assert train | val == set(files)

    def test_numbers_count_not_their_text(self) -> None:
        labels = self.frames(1000, "{}.png")
        _, val = divide(data_of(labels), "blocks", 20)
        numbers = sorted(int(file[:-4]) for file in val)
        starts = [one for one in numbers if f"{one - 1}.png" not in val]
        lengths = [next(length for length in range(1, 1001) if f"{start + length}.png" not in val) for start in starts]
        # A twentieth is 50, the next power of two 64, and the last block has the 40 that are left.
        assert all(length % 64 in (0, 40) for length in lengths)

    def test_videos_are_cut_apart(self) -> None:
        labels = {**self.frames(64, "one/{:06}.png"), **self.frames(64, "two_{:06}.png")}
        train, val = divide(data_of(labels), "blocks", 50)
        for files in (train, val):
            assert {file[:3] for file in files} == {"one", "two"}


class TestFolder:
    def test_each_folder_is_on_one_side(self) -> None:
        labels = {f"video{folder}/{number:03}.png": [0] for folder in range(10) for number in range(20)}
        train, val = divide(data_of(labels), "folder", 20)
        assert len(val) == 40
        assert not {file.split("/")[0] for file in train} & {file.split("/")[0] for file in val}

    def test_few_large_folders(self) -> None:
        labels = {f"{'abc'[number % 3]}/{number}.png": [0] for number in range(31)}
        train, val = divide(data_of(labels), "folder", 1)
        assert (len(train), len(val)) == (21, 10)

    def test_one_folder_is_refused(self) -> None:
        with refused("--split folder", "all are in one"):
            divide(data_of({f"images/{number}.png": [0] for number in range(9)}), "folder")


class TestOwnSubsets:
    def subsets(self, **counts: int) -> Clean:
        names = {f"{subset}/{number}.png": subset for subset, count in counts.items() for number in range(count)}
        return data_of({key: [0] for key in names}, names)

    @pytest.mark.parametrize(("train", "val"), [("train", "val"), ("Train", "Validation"), ("train", "valid")])
    def test_are_kept(self, train: str, val: str) -> None:
        data = self.subsets(**{train: 5, val: 3})
        for val_split in (0, 50):
            sets = divide(data, "auto", val_split)
            assert [{file.split("/")[0] for file in files} for files in sets] == [{train}, {val}]
            assert [len(files) for files in sets] == [5, 3]

    def test_test_set_is_left_out_and_others_are_named(self, caplog: pytest.LogCaptureFixture) -> None:
        findings = Findings()
        data = self.subsets(train=5, val=3, test=2, default=1)
        train, val = split_images(data, "auto", 20, 0, findings)
        assert {data.subsets[image] for image in train} == {"train", "default"}
        assert {data.subsets[image] for image in val} == {"val"}
        said = "image in the subset 'default', beside train and validation: trained on"
        assert findings.report()["noted"] == {said: {"count": 1, "examples": ["default/0.png"]}}
        assert "1 images are in the subset 'default', beside train and validation" in caplog.text
        assert findings.report()["skipped"] == {
            "image of the dump's test subset: neither trained nor validated on": {
                "count": 2,
                "examples": ["test/0.png", "test/1.png"],
            }
        }

    def test_test_set_validates_where_there_is_no_other(self) -> None:
        train, val = divide(self.subsets(Train=5, Test=2), "auto")
        assert (len(train), len(val)) == (5, 2)

    @pytest.mark.parametrize("names", [{"train": 9}, {"default": 9}, {"val": 9}, {"one": 5, "two": 4}])
    def test_are_none_without_both(self, names: dict[str, int]) -> None:
        _, val = divide(self.subsets(**names), "auto")
        assert len(val) == 2

    @pytest.mark.parametrize("method", ["stratified", "random", "blocks", "folder"])
    def test_are_not_asked_for(self, method: str) -> None:
        _, val = divide(self.subsets(train=20, val=20, more=20), method, 33)
        assert len(val) == pytest.approx(20, abs=1)
        assert method == "folder" or len({file.split("/")[0] for file in val}) > 1


class TestOneSide:
    @pytest.mark.parametrize("method", ["auto", "stratified", "random", "blocks", "folder"])
    def test_val_split_0_is_said_aloud(self, method: str, caplog: pytest.LogCaptureFixture) -> None:
        data = data_of({f"{number % 2}/{number}.png": [0] for number in range(9)})
        with caplog.at_level(logging.WARNING):
            train, val = divide(data, method, 0)
        assert train == val == set(data.files)
        assert "WARNING: --val-split is 0: validating on the training images" in caplog.text

    @pytest.mark.parametrize("method", ["auto", "random", "blocks"])
    def test_a_single_image_with_boxes(self, method: str, caplog: pytest.LogCaptureFixture) -> None:
        data = data_of({"0.png": [0], **{f"{number}.png": [] for number in range(1, 6)}})
        with caplog.at_level(logging.WARNING):
            train, val = divide(data, method, 20)
        assert train == val == set(data.files)
        assert "validating on the training images" in caplog.text


class TestLikelyVideo:
    def tracks(self, count: int, name: str, speed: float) -> Clean:
        """Images that each have four boxes, moved by `speed` px from image to image."""
        data = data_of({name.format(number): [0, 0, 1, 1] for number in range(count)})
        draw = np.random.default_rng(0)
        starts = draw.uniform(0, 400, (4, 2)) + np.arange(count)[:, None, None] * speed
        xywh = np.concatenate([starts % 600, np.full((count, 4, 2), 40.0)], axis=2).reshape(-1, 4)
        boxes = Boxes(data.boxes.image, data.boxes.category, xywh, data.boxes.crowd, data.boxes.relative)
        return Clean(data.files, data.subsets, data.sizes, boxes, data.categories)

    @pytest.mark.parametrize("name", ["images/frame_{:06}.png", "frame_{:06}.jpg"])
    def test_names_of_cvat_s_frames(self, name: str) -> None:
        assert "named as CVAT names" in likely_video(self.tracks(20, name, 200), known=False)

    @pytest.mark.parametrize("name", ["img1/{:06}.jpg", "clip-{}.png", "a/IMG{:03}.png"])
    def test_boxes_that_stay(self, name: str) -> None:
        assert "in the image before" in likely_video(self.tracks(40, name, 3), known=False)

    @pytest.mark.parametrize("name", ["img1/{:06}.jpg", "clip-{}.png"])
    def test_photographs_with_numbers(self, name: str) -> None:
        assert likely_video(self.tracks(40, name, 211), known=False) == ""

    def test_boxes_that_stay_where_numbers_do_not_follow(self) -> None:
        data = self.tracks(40, "{:06}.png", 3)
        files = [f"{int(file[:-4]) * 977:08}.png" for file in data.files]
        data = Clean(files, data.subsets, data.sizes, data.boxes, data.categories)
        assert likely_video(data, known=False) == ""

    def test_the_format_knows(self) -> None:
        assert likely_video(self.tracks(4, "{}.png", 200), known=True)

    @pytest.mark.parametrize(("split", "said"), [("auto", True), ("random", True), ("blocks", False)])
    def test_recommendation_in_the_log(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture, split: str, said: bool
    ) -> None:
        write_coco_dump(tmp_path, images=20, prefix="frame_00")
        with caplog.at_level(logging.WARNING):
            prepare_data(tmp_path, split=split)
        assert ("--split blocks" in caplog.text) is said


@pytest.mark.parametrize("split", ["", "Random", "kfold"])
def test_unknown_method_is_refused(tmp_path: Path, split: str) -> None:
    write_coco_dump(tmp_path)
    with refused(f"--split is '{split}'", "auto, stratified, random, blocks, folder"):
        prepare_data(tmp_path, split=split)


def test_method_is_in_the_report(tmp_path: Path) -> None:
    write_coco_dump(tmp_path)
    prepare_data(tmp_path, split="random")
    assert json.loads((tmp_path / "prepare_report.json").read_text())["split"] == "random"
