"""Preparing a dump: what is read, how it is divided, and what is refused."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from steps.common.errors import StepError
from steps.dataset.layout import check_prepared
from steps.dump.target import LOCK
from steps.fetch import fetch_dump
from steps.prepare import prepare_data
from tests.processes import held
from tests.steps.refusals import refused
from trainer.data.coco_dataset import CocoDetection, annotation_file
from trainer.data.fingerprint import dataset_digest
from trainer.data.transforms import EvalTransform
from trainer.errors import TrainerError

ROOT = Path(__file__).parents[2]


@pytest.fixture
def dump(tmp_path: Path, coco_dump: Callable[..., Path]) -> Path:
    """The annotation file of a dump of ten images, the last two without boxes."""
    return coco_dump(tmp_path / "dataset", images=10, negatives=2)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "dataset"


def edit(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    document = json.loads(path.read_text(encoding="utf-8"))
    change(document)
    path.write_text(json.dumps(document), encoding="utf-8")


def rename(path: Path, new_name: Callable[[str], str]) -> None:
    """Let the annotations call the images by other names."""

    def change(document: dict[str, Any]) -> None:
        for image in document["images"]:
            image["file_name"] = new_name(image["file_name"])

    edit(path, change)


def prepared(root: Path) -> dict[str, dict[str, Any]]:
    return {
        subset: json.loads((root / "annotations" / f"instances_{subset}.json").read_text())
        for subset in ("train", "val")
    }


def names(document: dict[str, Any], root: Path) -> list[str]:
    return [Path(image["file_name"]).relative_to(root).as_posix() for image in document["images"]]


def counts(report: dict[str, Any], *actions: str) -> dict[str, int]:
    return {what: found["count"] for action in actions for what, found in report[action].items()}


def boxes(document: dict[str, Any]) -> dict[str, list[tuple[int, list[float]]]]:
    """Category and box by the image's file."""
    files = {image["id"]: image["file_name"] for image in document["images"]}
    found: dict[str, list[tuple[int, list[float]]]] = {file: [] for file in files.values()}
    for box in document["annotations"]:
        found[files[box["image_id"]]].append((box["category_id"], box["bbox"]))
    return found


def all_boxes(root: Path) -> dict[str, list[tuple[int, list[float]]]]:
    return {file: found for document in prepared(root).values() for file, found in boxes(document).items()}


class TestImages:
    """Annotations name images in many ways; each must lead to one file."""

    @pytest.mark.parametrize("subset", ["default", "train"])
    @pytest.mark.parametrize(
        "new_name",
        [
            lambda name: name,
            lambda name: f"images/{name}",
            lambda name: f"./{name}",
            lambda name: f"/data/of/another/machine/images/{name}",
            lambda name: f"C:\\Users\\me\\images\\{name}",
            lambda name: f"\\\\server\\share\\{name}",
        ],
    )
    def test_named_by_path(
        self, root: Path, coco_dump: Callable[..., Path], subset: str, new_name: Callable[[str], str]
    ) -> None:
        path = coco_dump(root, images=4, subset=subset)
        rename(path, new_name)
        prepare_data(root)
        files = sorted(name for document in prepared(root).values() for name in names(document, root))
        assert files == [f"images/{index:04}.png" for index in range(4)]

    def test_below_the_subset_s_folder(self, root: Path, coco_dump: Callable[..., Path]) -> None:
        for subset in ("train", "val"):
            coco_dump(root, images=3, subset=subset)
            (root / "images").rename(root / subset)
        (root / "images").mkdir()
        for subset in ("train", "val"):
            (root / subset).rename(root / "images" / subset)
        prepare_data(root)
        for subset, document in prepared(root).items():
            assert names(document, root) == [f"images/{subset}/{index:04}.png" for index in range(3)]

    def test_same_name_in_two_folders(self, root: Path, coco_dump: Callable[..., Path]) -> None:
        parts = [json.loads(coco_dump(root, images=3, prefix=f"{folder}/").read_text()) for folder in "ab"]
        for image in parts[1]["images"]:
            image["id"] += 1000
        for box in parts[1]["annotations"]:
            box.update(image_id=box["image_id"] + 1000, category_id=4)
        merged = {key: parts[0][key] + parts[1][key] for key in ("images", "annotations")}
        path = root / "annotations" / "instances_default.json"
        path.write_text(json.dumps({**merged, "categories": parts[0]["categories"]}))
        prepare_data(root)
        found = {Path(file).relative_to(root).as_posix(): found for file, found in all_boxes(root).items()}
        assert set(found) == {f"images/{folder}/000{index}.png" for folder in "ab" for index in range(3)}
        assert {category for category, _ in found["images/a/0000.png"]} == {17, 4}
        assert {category for category, _ in found["images/b/0000.png"]} == {4}

    def test_flattened_folders_are_refused(self, dump: Path, root: Path) -> None:
        def two_folders(document: dict[str, Any]) -> None:
            document["images"][0]["file_name"] = "a/0000.png"
            document["images"][1]["file_name"] = "b/0000.png"

        edit(dump, two_folders)
        with refused(dump, "'a/0000.png' and 'b/0000.png' both lead to", root / "images" / "0000.png"):
            prepare_data(root)

    def test_name_of_several_files_is_refused(self, dump: Path, root: Path) -> None:
        for folder in ("x", "y"):
            (root / "images" / folder).mkdir()
            shutil.copy(root / "images" / "0000.png", root / "images" / folder)
        (root / "images" / "0000.png").unlink()
        with refused(dump, "'0000.png' can be images/x/0000.png, images/y/0000.png", "name it by its folder"):
            prepare_data(root)

    def test_missing_are_dropped_where_that_is_allowed(self, dump: Path, root: Path) -> None:
        for index in range(5):
            (root / "images" / f"000{index}.png").unlink()
        report = prepare_data(root, max_lost=63)
        assert report["dropped"]["image listed but missing"] == {
            "count": 5,
            "examples": [f"000{index}.png" for index in range(5)],
        }
        assert report["dropped"]["box of an image that cannot be used"]["count"] == 10
        assert sorted(name for document in prepared(root).values() for name in names(document, root)) == [
            f"images/000{index}.png" for index in range(5, 10)
        ]

    def test_many_missing_are_refused(self, dump: Path, root: Path) -> None:
        for index in range(6):
            (root / "images" / f"000{index}.png").unlink()
        with refused("6 of the 10 images of", "instances_default.json", "0000.png, 0001.png, 0002.png and 3 more"):
            prepare_data(root)

    def test_dump_without_images_says_how_to_get_them(self, dump: Path, root: Path) -> None:
        shutil.rmtree(root / "images")
        with refused("10 of the 10 images", "'Save images'"):
            prepare_data(root)

    @pytest.mark.parametrize("suffix", [".heic", ".JP2"])
    def test_images_that_are_not_read_are_named(self, dump: Path, root: Path, suffix: str) -> None:
        for path in list((root / "images").iterdir()):
            path.rename(path.with_suffix(suffix))
        rename(dump, lambda name: name.replace(".png", suffix))
        with refused("10 of the 10 images", f"0000{suffix} is there", f"{suffix} files are not read", "JPEG or PNG"):
            prepare_data(root)

    @pytest.mark.parametrize("suffix", [".jfif", ".BMP"])
    def test_suffixes_that_are_rare(self, dump: Path, root: Path, suffix: str) -> None:
        for path in list((root / "images").iterdir()):
            Image.open(path).save(path.with_suffix(suffix))
            path.unlink()
        rename(dump, lambda name: name.replace(".png", suffix))
        assert prepare_data(root)["boxes"] == {"train": 12, "val": 4}

    def test_size_is_the_file_s(self, dump: Path, root: Path) -> None:
        Image.new("RGB", (80, 90)).save(root / "images" / "0002.png")
        report = prepare_data(root)
        sizes = {
            Path(image["file_name"]).name: (image["width"], image["height"])
            for document in prepared(root).values()
            for image in document["images"]
        }
        assert sizes == {f"000{index}.png": (80, 90) if index == 2 else (64, 64) for index in range(10)}
        assert report["repaired"] == {"image size other than the file's": {"count": 1, "examples": ["0002.png"]}}


class TestAnnotationFile:
    @pytest.mark.parametrize(
        ("content", "words"),
        [
            (b'{"images": [],\n "annotations": [,]}', ["not readable JSON", "line 2, column 18"]),
            (b"", ["not readable JSON", "line 1, column 1"]),
            (b'{"images": "\xff"}', ["is not UTF-8 text"]),
            (b"[" * 100_000, ["not readable JSON"]),
            (b"[]", ["expected a JSON object at the top level"]),
            (b"{}", ["'images' is missing"]),
            (b'{"images": {}}', ["'images' is no list"]),
            (b'{"images": [], "annotations": [1], "categories": []}', ["annotations[0] is not an object"]),
        ],
    )
    def test_flaw_is_named(self, dump: Path, root: Path, content: bytes, words: list[str]) -> None:
        dump.write_bytes(content)
        with refused(dump, *words):
            prepare_data(root)

    def test_byte_order_mark_and_nan(self, dump: Path, root: Path) -> None:
        prepare_data(root)
        expected = prepared(root)
        text = dump.read_text().replace('"segmentation": []', '"segmentation": [], "score": NaN')
        dump.write_bytes(b"\xef\xbb\xbf" + text.encode())
        prepare_data(root)
        assert prepared(root) == expected

    @pytest.mark.parametrize(
        ("change", "words"),
        [
            (lambda d: d["images"][1].pop("id"), ["images[1] needs an 'id'"]),
            (lambda d: d["images"][1].update(file_name=3), ["images[1] needs an 'id' and a 'file_name'"]),
            (lambda d: d["images"][1].update(id=100), ["'0000.png' and '0001.png' have the same id 100"]),
            (lambda d: d["images"].clear(), ["lists no image"]),
            (lambda d: d["categories"][0].pop("name"), ["categories[0] needs an 'id' and a 'name'"]),
            (lambda d: d["categories"][0].update(id=4), ["'bolt' and 'nut' have the same id 4"]),
            (lambda d: d["categories"].clear(), ["has no boxes", "16 x box of an unlisted category"]),
            (lambda d: d["annotations"].clear(), ["has no boxes", "annotate some objects"]),
        ],
    )
    def test_flaw_of_an_entry_is_named(
        self, dump: Path, root: Path, change: Callable[[Any], object], words: list[str]
    ) -> None:
        edit(dump, change)
        with refused("instances_default.json", *words):
            prepare_data(root)

    def test_ids_stay_the_dump_s(self, dump: Path, root: Path) -> None:
        report = prepare_data(root)
        for document in prepared(root).values():
            assert {category["id"]: category["name"] for category in document["categories"]} == {4: "nut", 17: "bolt"}
        assert report["classes"]["bolt"] == report["classes"]["nut"]
        assert sum(report["classes"]["bolt"].values()) == 8

    def test_ids_written_as_text(self, dump: Path, root: Path) -> None:
        prepare_data(root)
        expected = prepared(root)

        def as_text(document: dict[str, Any]) -> None:
            for box in document["annotations"]:
                box.update(image_id=str(box["image_id"]), category_id=str(box["category_id"]))

        edit(dump, as_text)
        prepare_data(root)
        assert prepared(root) == expected

    def test_files_may_number_their_categories_differently(self, root: Path, coco_dump: Callable[..., Path]) -> None:
        coco_dump(root, images=3, subset="one", prefix="one/")
        other = coco_dump(root, images=3, subset="two", prefix="two/")

        def swap(document: dict[str, Any]) -> None:
            for entry in document["categories"]:
                entry["id"] = 21 - entry["id"]
            for box in document["annotations"]:
                box["category_id"] = 21 - box["category_id"]

        prepare_data(root)
        expected = all_boxes(root)
        edit(other, swap)
        prepare_data(root)
        assert all_boxes(root) == expected


class TestBoxes:
    @pytest.mark.parametrize(
        ("change", "kept", "counted"),
        [
            ({"bbox": [2, 3, 4, 5]}, [2, 3, 4, 5], None),
            ({"bbox": [-5, -6, 20, 20]}, [0, 0, 15, 14], ("repaired", "box clipped to its image")),
            ({"bbox": [60, 60, 20, 20]}, [60, 60, 4, 4], ("repaired", "box clipped to its image")),
            ({"bbox": [60, 60, 4.005, 4]}, [60, 60, 4, 4], None),
            ({"bbox": ["1", "2", "3", "4"]}, [1, 2, 3, 4], ("repaired", "box written as text")),
            ({"bbox": [64, 0, 5, 5]}, None, ("dropped", "box outside its image")),
            ({"bbox": [-9, 0, 9, 5]}, None, ("dropped", "box outside its image")),
            ({"bbox": [5, 5, 0, 5]}, None, ("dropped", "box without width or height")),
            ({"bbox": [5, 5, 5, -1]}, None, ("dropped", "box without width or height")),
            ({"bbox": [5, 5, 5, 1e-9]}, None, ("dropped", "box without width or height")),
            ({"bbox": [1, 2, 3]}, None, ("dropped", "box that is not four numbers")),
            ({"bbox": "box"}, None, ("dropped", "box that is not four numbers")),
            ({"bbox": None}, None, ("dropped", "box that is not four numbers")),
            ({"bbox": {"x": 1}}, None, ("dropped", "box that is not four numbers")),
            ({"bbox": [None] * 4}, None, ("dropped", "box that is not four numbers")),
            ({"bbox": [1, 2, 3, "wide"]}, None, ("dropped", "box that is not four numbers")),
            ({"bbox": [1, 2, 10**400, 3]}, None, ("dropped", "box that is not four numbers")),
            ({"image_id": 9999}, None, ("dropped", "box of an unlisted image")),
            ({"category_id": 9999}, None, ("dropped", "box of an unlisted category")),
            ({"category_id": None}, None, ("dropped", "box of an unlisted category")),
            ({"category_id": [17]}, None, ("dropped", "box of an unlisted category")),
        ],
    )
    def test_rule(
        self,
        dump: Path,
        root: Path,
        change: dict[str, Any],
        kept: list[float] | None,
        counted: tuple[str, str] | None,
    ) -> None:
        edit(dump, lambda document: document["annotations"][0].update(change))
        report = prepare_data(root)
        first = [box for category, box in all_boxes(root)[str(root / "images" / "0000.png")] if category == 17]
        assert first == ([] if kept is None else [pytest.approx(kept)])
        assert counts(report, "repaired", "dropped") == ({counted[1]: 1} if counted else {})
        assert counted is None or counts(report, counted[0]) == {counted[1]: 1}
        assert json.loads((root / "prepare_report.json").read_text()) == report

    def test_numbers_are_unique_and_areas_right(self, dump: Path, root: Path) -> None:
        prepare_data(root)
        written = [box for document in prepared(root).values() for box in document["annotations"]]
        assert sorted(box["id"] for box in written) == list(range(1, 17))
        assert all(box["area"] == pytest.approx(box["bbox"][2] * box["bbox"][3]) for box in written)


def test_the_trainer_finds_the_digests_that_are_written(dump: Path, root: Path) -> None:
    """As `prepare` knows them without reading its files again, and `train` without `prepare`."""
    edit(dump, lambda document: document["annotations"][1].update(iscrowd=1, bbox=[1.25, 2, 3.125, 4]))
    report = prepare_data(root, crowds="regions")
    sets = [CocoDetection(annotation_file(root, name), EvalTransform(64, 64)) for name in ("train", "val")]
    assert [each.info["split_digest"] for each in sets] == [each.digest for each in sets]
    assert {each.info["dataset_digest"] for each in sets} == {report["digest"]}
    assert dataset_digest(*(each.digest for each in sets)) == report["digest"]
    assert report["settings"]["seed"] == 0
    for document in prepared(root).values():
        for image in document["images"]:
            assert image["sha256"] == hashlib.sha256(Path(image["file_name"]).read_bytes()).hexdigest()


def test_an_edited_or_damaged_split_is_not_read(dump: Path, root: Path) -> None:
    prepare_data(root)
    path = annotation_file(root, "train")
    path.write_bytes(path.read_bytes().replace(b'"bbox":[2.0', b'"bbox":[3.0', 1))
    with pytest.raises(TrainerError, match=r"instances_train\.json is damaged or was edited"):
        CocoDetection(path, EvalTransform(64, 64))


def test_the_digest_is_of_the_dataset_wherever_it_lies(dump: Path, root: Path, tmp_path: Path) -> None:
    copy = fetch_dump(str(root), tmp_path / "copy")
    here, there = prepare_data(root), prepare_data(copy)
    assert len(here["digest"]) == 64
    assert there["digest"] == here["digest"]
    assert (here["dump"], there["dump"]) == (str(root), str(root))
    others = [prepare_data(copy, seed=1)["digest"]]
    # The pixels count.
    picture = copy / "images" / "0003.png"
    Image.new("RGB", (64, 64), "pink").save(picture)
    others.append(prepare_data(copy, seed=1)["digest"])
    for change in (
        lambda document: document["annotations"][0].update(bbox=[1, 2, 5, 6]),
        lambda document: document["annotations"][1].update(iscrowd=1),
        lambda document: document["categories"][0].update(name="washer"),
    ):
        edit(dump, change)
        others.append(prepare_data(root)["digest"])
    assert len({here["digest"], *others}) == 6


class TestSplit:
    def sets(self, root: Path, **arguments: Any) -> tuple[list[str], list[str]]:
        prepare_data(root, **arguments)
        train, val = (names(document, root) for document in prepared(root).values())
        return train, val

    def test_disjoint_and_complete(self, dump: Path, root: Path) -> None:
        train, val = self.sets(root, val_split=30)
        assert sorted(train + val) == [f"images/000{index}.png" for index in range(10)]
        # Two of the eight with boxes (rounded) and one of the two without.
        assert len(val) == 3

    def test_negatives_stay_in_both(self, dump: Path, root: Path) -> None:
        report = prepare_data(root)
        assert report["images"]["without_boxes"] == 2
        for document in prepared(root).values():
            assert sum(not found for found in boxes(document).values()) == 1

    def test_stable_for_a_seed(self, dump: Path, root: Path) -> None:
        before = self.sets(root, seed=3)
        edit(dump, lambda document: [document[key].reverse() for key in document])
        assert self.sets(root, seed=3) == before

    def test_changes_with_the_seed(self, root: Path, coco_dump: Callable[..., Path]) -> None:
        coco_dump(root, images=20)
        assert len({tuple(self.sets(root, seed=seed)[1]) for seed in range(3)}) == 3

    def test_another_image_moves_no_other(self, root: Path, coco_dump: Callable[..., Path]) -> None:
        coco_dump(root, images=20, negatives=0)
        before = set(self.sets(root)[1])
        coco_dump(root, images=21, negatives=0)
        assert before <= set(self.sets(root)[1]) | {"images/0020.png"}

    @pytest.mark.parametrize(("images", "val_split"), [(1, 20), (10, 0)])
    def test_validating_on_the_training_set_is_said_aloud(
        self,
        root: Path,
        coco_dump: Callable[..., Path],
        caplog: pytest.LogCaptureFixture,
        images: int,
        val_split: int,
    ) -> None:
        coco_dump(root, images=images, negatives=0)
        with caplog.at_level(logging.WARNING):
            train, val = self.sets(root, val_split=val_split)
        assert len(train) == images
        assert train == val
        assert "WARNING" in caplog.text
        assert "validating on the training images" in caplog.text
        assert json.loads((root / "prepare_report.json").read_text())["validated_on_training_set"] is True

    @pytest.mark.parametrize("val_split", [1, 99])
    def test_neither_side_is_empty(self, root: Path, coco_dump: Callable[..., Path], val_split: int) -> None:
        coco_dump(root, images=3, negatives=0)
        assert all(self.sets(root, val_split=val_split))

    @pytest.mark.parametrize("val_split", [-1, 100])
    def test_out_of_range_is_refused(self, dump: Path, root: Path, val_split: int) -> None:
        with refused(f"--val-split is {val_split}", "from 0 to 99"):
            prepare_data(root, val_split=val_split)

    @pytest.mark.parametrize("val_name", ["val", "validation"])
    def test_subsets_of_the_dump_are_kept(self, root: Path, coco_dump: Callable[..., Path], val_name: str) -> None:
        originals = {}
        for subset, images in (("train", 4), (val_name, 3)):
            path = coco_dump(root, images=images, subset=subset, prefix=f"{subset}/")
            originals[path.name] = path.read_bytes()
        for _ in range(2):
            train, val = self.sets(root, val_split=50)
            assert train == [f"images/train/000{index}.png" for index in range(4)]
            assert val == [f"images/{val_name}/000{index}.png" for index in range(3)]
        kept = {path.name: path.read_bytes() for path in root.rglob("instances_*.json")}
        aside = {path.name: path.read_bytes() for path in (root / "annotations" / "dump").iterdir()}
        assert {**kept, **aside}.items() >= originals.items()


class TestEarlier:
    """What an earlier run left is gone before anything else happens, and train and val come together."""

    def test_a_refused_run_leaves_no_split(self, dump: Path, root: Path) -> None:
        prepare_data(root)
        edit(dump, lambda document: document["annotations"].clear())
        with refused("has no boxes"):
            prepare_data(root)
        assert not [path for path in root.rglob("*.json") if path != dump and ".fetch" not in path.parts]

    @pytest.mark.parametrize("renames", range(4))
    def test_a_killed_run_leaves_all_or_no_training_set(self, dump: Path, root: Path, renames: int) -> None:
        prepare_data(root)
        code = """
import os, signal, sys
from pathlib import Path
from steps.prepare import prepare_data
left, replace = int(sys.argv[2]), os.replace
def count(*names):
    global left
    if not left:
        os.kill(os.getpid(), signal.SIGKILL)
    left -= 1
    replace(*names)
os.replace = count
prepare_data(Path(sys.argv[1]), seed=1)
"""
        killed = subprocess.run([sys.executable, "-c", code, str(root), str(renames)], cwd=ROOT)
        assert (killed.returncode == 0) is (renames == 3)
        try:
            check_prepared(root)
        except StepError:
            assert not annotation_file(root, "train").exists()
            prepare_data(root, seed=1)
        else:
            assert renames == 3
        train, val = (set(names(document, root)) for document in prepared(root).values())
        assert len(train | val) == len(train) + len(val) == 10

    def test_a_second_run_at_the_same_time_is_refused(self, dump: Path, root: Path) -> None:
        prepare_data(root)
        with held(root, "prepare", LOCK) as holder:
            before = annotation_file(root, "train").read_bytes()
            with refused(f"{root} is in use: prepare writes there, process {holder} on ", " since "):
                prepare_data(root)
            assert annotation_file(root, "train").read_bytes() == before
        prepare_data(root)


class TestAgain:
    @pytest.mark.parametrize("subsets", [["default"], ["train", "val"], ["train"]])
    def test_same_bytes(self, root: Path, coco_dump: Callable[..., Path], subsets: list[str]) -> None:
        for subset in subsets:
            coco_dump(root, images=6, subset=subset, prefix=f"{subset}/")

        def run() -> dict[str, bytes]:
            prepare_data(root, seed=1)
            return {str(path): path.read_bytes() for path in root.rglob("*.json")}

        assert run() == run()

    @pytest.mark.parametrize("wait_for", ["annotations/dump", "annotations/instances_train.json"])
    def test_after_being_killed(self, root: Path, coco_dump: Callable[..., Path], wait_for: str) -> None:
        for subset in ("train", "val"):
            coco_dump(root, images=100, subset=subset, prefix=f"{subset}/")
        shutil.copytree(root, root.with_name("other"))
        process = subprocess.Popen([sys.executable, "-m", "steps", "prepare", "--dataset-dir", str(root)])
        # Whether the file is the dump's own or ours, what follows is in the middle of the work.
        while process.poll() is None and not (root / wait_for).exists():
            time.sleep(0.0005)
        process.kill()
        process.wait()
        (root / "annotations" / ".part-killed").write_bytes(b"half")

        def written(folder: Path) -> dict[str, bytes]:
            prepare_data(folder)
            files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*.json")}
            return {name: content.replace(str(folder).encode(), b"") for name, content in files.items()}

        assert written(root) == written(root.with_name("other"))
        assert not list(root.rglob(".part-*"))

    def test_after_fetching_again(self, no_aws: None, root: Path, tmp_path: Path, coco_dump: Any) -> None:
        """The pipeline's retry: fetch finds its annotation file moved aside, and brings it again."""
        for subset in ("train", "val"):
            coco_dump(tmp_path / "source", images=4, subset=subset, prefix=f"{subset}/")

        def run() -> dict[str, bytes]:
            fetch_dump(str(tmp_path / "source"), root)
            prepare_data(root)
            return {str(path): path.read_bytes() for path in (root / "annotations").rglob("*.json")}

        assert run() == run()

    def test_real_dump(self, no_aws: None, root: Path, shared_dump: Path) -> None:
        fetch_dump(str(shared_dump), root)
        report = prepare_data(root)
        assert report["images"]["train"] > report["images"]["val"] > 0
        for document in prepared(root).values():
            assert all(Path(image["file_name"]).is_file() for image in document["images"])
        written = prepared(root)
        assert {name: len(document["annotations"]) for name, document in written.items()} == report["boxes"]


class TestFormat:
    def test_files_win_over_what_is_said(self, dump: Path, root: Path, caplog: pytest.LogCaptureFixture) -> None:
        with caplog.at_level(logging.INFO):
            report = prepare_data(root, dump_format="cvat_voc")
        assert report["dump_format"] == "cvat_coco"
        assert "--dump-format says cvat_voc, but the files are COCO 1.0" in caplog.text
        assert "annotations/instances_default.json" in caplog.text
        assert [record.levelname for record in caplog.records if "--dump-format" in record.message] == ["WARNING"]

    def test_what_cvat_is_asked_for_by_default_is_no_mistake(
        self, root: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        for name in ("Annotations", "JPEGImages"):
            (root / name).mkdir(parents=True)
        Image.new("RGB", (20, 10)).save(root / "JPEGImages" / "a.jpg")
        (root / "Annotations" / "a.xml").write_text(
            "<annotation><filename>a.jpg</filename><object><name>bolt</name><bndbox><xmin>1</xmin><ymin>1</ymin>"
            "<xmax>9</xmax><ymax>9</ymax></bndbox></object></annotation>"
        )
        with caplog.at_level(logging.INFO):
            prepare_data(root, val_split=0)
        assert "--dump-format says cvat_coco, but the files are PASCAL VOC" in caplog.text
        assert not [record for record in caplog.records if record.levelname == "WARNING" and "format" in record.message]

    @pytest.mark.parametrize("said", ["", "cvat_coco", "coco", "COCO 1.0"])
    def test_what_is_read_is_said(self, dump: Path, root: Path, caplog: pytest.LogCaptureFixture, said: str) -> None:
        with caplog.at_level(logging.INFO):
            prepare_data(root, dump_format=said)
        assert "the dump is COCO 1.0 (annotations/instances_default.json)" in caplog.text

    @pytest.mark.parametrize(("said", "taken"), [("", "cvat_coco"), ("cvat_yolo", "cvat_yolo")])
    def test_of_several_the_one_that_is_said(
        self, dump: Path, root: Path, caplog: pytest.LogCaptureFixture, said: str, taken: str
    ) -> None:
        (root / "obj.names").write_text("bolt\n")
        (root / "train.txt").write_text("data/images/0000.png\n")
        (root / "obj_train_data").mkdir()
        (root / "images" / "0000.txt").write_text("0 0.5 0.5 0.25 0.25\n")
        with caplog.at_level(logging.INFO):
            report = prepare_data(root, dump_format=said, max_lost=100)
        assert report["dump_format"] == taken
        assert ("the files show YOLO 1.1 (obj.names) too" in caplog.text) is (taken == "cvat_coco")

    @pytest.mark.parametrize("said", ["cvat", "cvat_images"])
    def test_cvats_xml_goes_by_the_tag_that_cvat_has_for_it_and_by_the_former_one(self, root: Path, said: str) -> None:
        root.mkdir()
        Image.new("RGB", (20, 10)).save(root / "a.png")
        (root / "annotations.xml").write_text(
            '<annotations><image id="0" name="a.png" width="20" height="10">'
            '<box label="bolt" xtl="1" ytl="1" xbr="9" ybr="9"/></image></annotations>'
        )
        report = prepare_data(root, dump_format=said, val_split=0)
        assert (report["dump_format"], report["boxes"]["train"]) == ("cvat", 1)

    def test_unknown_format_is_refused(self, dump: Path, root: Path) -> None:
        with refused("--dump-format cvat_cityscapes", "cvat_coco", "cvat_yolo", "datumaro_project", " cvat,"):
            prepare_data(root, dump_format="cvat_cityscapes")


class TestNothingToPrepare:
    def test_no_folder(self, root: Path) -> None:
        with refused(f"--dataset-dir {root} is not a folder", "run that first"):
            prepare_data(root)

    def test_empty_folder(self, root: Path) -> None:
        root.mkdir()
        with refused(root, "it is empty", "COCO 1.0"):
            prepare_data(root)

    def test_folder_of_something_else(self, root: Path) -> None:
        (root / "holiday").mkdir(parents=True)
        (root / "notes.txt").write_text("bolt")
        with refused(root, "it holds holiday, notes.txt", "COCO 1.0", "YOLO 1.1"):
            prepare_data(root)
