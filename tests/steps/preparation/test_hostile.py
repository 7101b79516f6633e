"""Dumps that mean harm: each ends in one clear line, and nothing outside the dataset's folder is opened or changed."""

from __future__ import annotations

import json
import math
import os
import socket
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import google_crc32c
import pytest
from PIL import Image

from steps.prepare import prepare_data
from tests.conftest import write_coco_dump
from tests.steps.refusals import refused

_watched: list[str] = []
"""The folder that must not be touched, while a test runs, and then what was."""


def _watch(event: str, arguments: tuple[Any, ...]) -> None:
    if _watched and event in ("open", "os.scandir", "os.listdir", "os.rename", "os.remove", "os.link", "os.symlink"):
        for argument in arguments[:2]:
            if isinstance(argument, str | bytes | os.PathLike):
                path = os.fsdecode(argument)
                if os.path.realpath(path).startswith(_watched[0]):
                    _watched.append(f"{event} {path}")


sys.addaudithook(_watch)


@pytest.fixture
def outside(tmp_path: Path) -> Iterator[Path]:
    """A folder with a secret text and picture, which must be left as it is and unread."""
    folder = tmp_path / "outside"
    folder.mkdir()
    (folder / "secret.txt").write_text("the secret")
    Image.new("RGB", (64, 64)).save(folder / "secret.png")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    yield folder
    touched = _watched[1:]
    _watched.clear()
    assert touched == []
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_coco_dump(tmp_path / "dataset", images=4)
    return tmp_path / "dataset"


def empty(root: Path) -> None:
    """Leave the images alone, for annotations of another format."""
    (root / "annotations" / "instances_default.json").unlink()
    (root / "annotations").rmdir()


def write(path: Path, content: str | bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)


def edit(root: Path, change: Callable[[dict[str, Any]], object]) -> None:
    path = root / "annotations" / "instances_default.json"
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


def refuse(root: Path, outside: Path, *words: str, dump_format: str = "") -> None:
    """Prepare, expect a refusal with these words, and look on."""
    _watched[:] = [os.path.realpath(outside)]
    with refused(*words) as told:
        prepare_data(root, dump_format=dump_format)
    assert "the secret" not in told.message
    assert not [path for path in root.glob("annotations/instances_train.json") if not path.is_symlink()]


class TestNames:
    @pytest.mark.parametrize(
        "name",
        [
            "../outside/secret.png",
            "../../outside/secret.png",
            "images/../../outside/secret.png",
            "..\\outside\\secret.png",
            "a/b/../../../outside/secret.png",
            "..",
            "./../0000.png",
        ],
    )
    def test_that_lead_out(self, root: Path, outside: Path, name: str) -> None:
        edit(root, lambda document: document["images"][0].update(file_name=name))
        refuse(root, outside, name, "is outside its folder")

    def test_absolute(self, root: Path, outside: Path) -> None:
        def change(document: dict[str, Any]) -> None:
            for image in document["images"][:3]:
                image["file_name"] = str(outside / "secret.png")

        edit(root, change)
        refuse(root, outside, "3 of the 4 images", "secret.png", "are missing")

    @pytest.mark.parametrize(
        "name", ["\0", "a\0.png", "a\n.png\nerror: all is well", "\x1b[2J.png", "x" * 10_000, "/" * 999]
    )
    def test_that_no_file_has(self, root: Path, outside: Path, name: str) -> None:
        def change(document: dict[str, Any]) -> None:
            for image in document["images"][:3]:
                image["file_name"] = name

        edit(root, change)
        refuse(root, outside, "3 of the 4 images", "are missing")

    def test_in_a_list_of_yolo(self, root: Path, outside: Path) -> None:
        empty(root)
        write(root / "obj.names", "bolt\n")
        write(root / "obj.data", "classes = 1\nnames = ../outside/secret.txt\ntrain = ../outside/secret.txt\n")
        write(root / "train.txt", "data/../../outside/secret.png\n")
        write(root / "images" / "0000.txt", "0 0.5 0.5 0.1 0.1\n")
        refuse(root, outside)

    def test_in_a_list_of_yolo_that_is_there(self, root: Path, outside: Path) -> None:
        empty(root)
        write(root / "obj.names", "bolt\n")
        write(root / "train.txt", "../outside/secret.png\n")
        write(root / "images" / "0000.txt", "0 0.5 0.5 0.1 0.1\n")
        refuse(root, outside, "'../outside/secret.png'", "is outside its folder")

    def test_in_the_settings_of_ultralytics(self, root: Path, outside: Path) -> None:
        empty(root)
        write(root / "data.yaml", f"path: {outside}\ntrain: ../outside\nval: {outside}/secret.txt\nnames: [bolt]\n")
        refuse(root, outside)

    def test_in_datumaro(self, root: Path, outside: Path) -> None:
        empty(root)
        item = {
            "id": "x",
            "annotations": [{"type": "bbox", "label_id": 0, "bbox": [1, 1, 5, 5]}],
            "image": {"path": "../../../outside/secret.png", "size": [64, 64]},
        }
        categories = {"label": {"labels": [{"name": "bolt", "parent": "", "attributes": []}]}}
        document = {"dm_format_version": "1.0", "info": {}, "categories": categories, "items": [item]}
        write(root / "annotations" / "default.json", json.dumps(document))
        refuse(root, outside)

    @pytest.mark.parametrize("name", ["../outside/evil.jpg", "/outside/../../evil.jpg", "a\0b.jpg", "x" * 300])
    def test_in_a_record(self, root: Path, outside: Path, name: str) -> None:
        empty(root)
        write(root / "label_map.pbtxt", "item { id: 1 name: 'bolt' }")
        write(root / "default.tfrecord", record(name, (root / "images" / "0000.png").read_bytes()))
        refuse(root, outside)
        assert not list(root.rglob("*evil*"))

    def test_in_xml(self, root: Path, outside: Path) -> None:
        empty(root)
        box = "<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>9</xmax><ymax>9</ymax></bndbox>"
        names = "<folder>../../outside</folder><filename>../../outside/secret.png</filename>"
        write(
            root / "Annotations" / "x.xml", f"<annotation>{names}<object><name>bolt</name>{box}</object></annotation>"
        )
        refuse(root, outside)


class TestLinks:
    @pytest.mark.parametrize(
        "place",
        [
            "images/0000.png",
            "annotations/instances_default.json",
            "annotations/instances_train.json",
            "annotations/instances_other.json",
            "prepare_report.json",
            ".hidden",
            "obj.data",
        ],
    )
    def test_to_a_file(self, root: Path, outside: Path, place: str) -> None:
        (root / place).unlink(missing_ok=True)
        (root / place).symlink_to(outside / "secret.txt")
        refuse(root, outside, str(root), f"'{place}' is a link that leads out")

    @pytest.mark.parametrize("place", ["images/more", "annotations", "embedded", "gt"])
    def test_to_a_folder(self, root: Path, outside: Path, place: str) -> None:
        if place == "annotations":
            empty(root)
        (root / place).symlink_to(outside, target_is_directory=True)
        refuse(root, outside, str(root), f"'{place}' is a link that leads out")

    def test_by_way_of_another(self, root: Path, outside: Path) -> None:
        (root / "one").symlink_to("two")
        (root / "two").symlink_to(os.path.join("..", "outside", "secret.png"))
        refuse(root, outside, "is a link that leads out")

    @pytest.mark.parametrize("target", ["loop.png", "nothing.png"])
    def test_to_nothing(self, root: Path, outside: Path, target: str) -> None:
        (root / "images" / "loop.png").symlink_to(target)
        refuse(root, outside, "'images/loop.png' is a link that leads nowhere")

    def test_to_a_folder_above(self, root: Path, outside: Path) -> None:
        (root / "images" / "again").symlink_to("..", target_is_directory=True)
        refuse(root, outside, "'images/again' is a link that leads out")

    def test_inside_is_welcome(self, root: Path, outside: Path) -> None:
        (root / "store").mkdir()
        for path in list((root / "images").iterdir()):
            path.rename(root / "store" / path.name)
            path.symlink_to(os.path.join("..", "store", path.name))
        _watched[:] = [os.path.realpath(outside)]
        assert prepare_data(root)["images"]["train"] == 3


class TestNoFiles:
    """What blocks whoever opens it."""

    @pytest.mark.parametrize("place", ["images/x.png", "gt.txt", "annotations/instances_a.json"])
    def test_pipe(self, root: Path, outside: Path, place: str) -> None:
        os.mkfifo(root / place)
        refuse(root, outside, f"'{place}'", "is neither a file nor a folder")

    def test_socket(self, root: Path, outside: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(root)  # The path of a socket is short.
        with socket.socket(socket.AF_UNIX) as server:
            server.bind("x.png")
            refuse(root, outside, "'x.png'", "is neither a file nor a folder")


def png(width: int, height: int) -> bytes:
    """A PNG of a few bytes that promises as many pixels."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


def jpeg(width: int, height: int) -> bytes:
    frame = struct.pack(">BBHBHHB", 0xFF, 0xC0, 17, 8, height, width, 3) + bytes([1, 17, 0, 2, 17, 1, 3, 17, 1])
    return b"\xff\xd8" + frame + b"\xff\xd9"


def bmp(width: int, height: int) -> bytes:
    return b"BM" + struct.pack("<IHHIIiiHHIIiiII", 54, 0, 0, 54, 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0)


def gif(width: int, height: int) -> bytes:
    frame = b"," + struct.pack("<HHHHB", 0, 0, width, height, 0) + b"\2\1\0\0"
    return b"GIF89a" + struct.pack("<HHBBB", width, height, 0, 0, 0) + frame + b";"


@pytest.mark.parametrize(
    "content",
    [png(50_000, 40_000), png(2**31 - 1, 2**31 - 1), jpeg(65_000, 65_000), bmp(60_000, 60_000), gif(65_535, 65_535)],
)
def test_header_that_promises_billions_of_pixels(root: Path, outside: Path, content: bytes) -> None:
    write(root / "images" / "0001.png", content)
    refuse(root, outside, str(root / "images" / "0001.png"), "pixels", "make it smaller")


LAUGHS = "<!DOCTYPE a [<!ENTITY l0 'ha'>" + "".join(
    f"<!ENTITY l{n} '{f'&l{n - 1};' * 10}'>" for n in range(1, 10)
) + "]>"  # fmt: skip


class TestDocuments:
    @pytest.mark.parametrize("content", ["[" * 200_000, '{"images":' * 50_000, '{"a":' + "[" * 99_999])
    def test_nested_deeply(self, root: Path, outside: Path, content: str) -> None:
        write(root / "annotations" / "instances_default.json", content)
        refuse(root, outside, "instances_default.json", "not readable JSON")

    def test_number_of_a_million_digits(self, root: Path, outside: Path) -> None:
        content = '\ufeff{"images": [{"id": ' + "9" * 1_000_000 + "}]}"
        write(root / "annotations" / "instances_default.json", content)
        refuse(root, outside, "instances_default.json")

    @pytest.mark.parametrize(
        ("size", "counts"),
        [([10**12, 10**12], [5, 10**20]), ([10**9, 10**9], "o" * 100_000), ([0, 0], [0, 5]), ([2, 2], [-5, 9])],
    )
    def test_mask_of_any_size(self, root: Path, outside: Path, size: list[int], counts: Any) -> None:
        def change(document: dict[str, Any]) -> None:
            for box in document["annotations"]:
                box.update(bbox=None, segmentation={"size": size, "counts": counts})

        edit(root, change)
        refuse(root, outside, "has no boxes")

    @pytest.mark.parametrize("kind", ["annotation", "annotations"])
    @pytest.mark.parametrize("entity", [LAUGHS, "<!DOCTYPE a [<!ENTITY l9 SYSTEM 'file://OUTSIDE'>]>"])
    def test_entities(self, root: Path, outside: Path, kind: str, entity: str) -> None:
        empty(root)
        doctype = entity.replace("OUTSIDE", str(outside / "secret.txt"))
        inner = {
            "annotation": "<filename>0000.png</filename><size><width>64</width></size><object><name>&l9;</name><bndbox>"
            "<xmin>1</xmin><ymin>1</ymin><xmax>9</xmax><ymax>9</ymax></bndbox></object>",
            "annotations": "<version>1.1</version><image id='0' name='0000.png' width='64' height='64'>"
            "<box label='&l9;' xtl='1' ytl='1' xbr='9' ybr='9' occluded='0'/></image>",
        }[kind]
        write(root / "Annotations" / "x.xml", f"<?xml version='1.0'?>{doctype}<{kind}>{inner}</{kind}>")
        refuse(root, outside)

    @pytest.mark.parametrize(
        "names",
        [
            "!!python/object/apply:os.system ['touch OUTSIDE/evil']",
            "!!python/name:os.system",
            "&a [x, x]\nb: &b [*a, *a, *a, *a, *a, *a, *a, *a, *a]\nc: [*b, *b, *b, *b, *b, *b, *b, *b, *b]",
            "[" * 5_000,
        ],
    )
    def test_yaml(self, root: Path, outside: Path, names: str) -> None:
        empty(root)
        write(root / "data.yaml", f"train: images\nnames: {names.replace('OUTSIDE', str(outside))}\n")
        refuse(root, outside)

    def test_record_that_promises_more_than_there_is(self, root: Path, outside: Path) -> None:
        empty(root)
        write(root / "label_map.pbtxt", "item { id: 1 name: 'bolt' }")
        length = struct.pack("<Q", 2**62)
        write(root / "default.tfrecord", length + struct.pack("<I", masked(length)) + b"x" * 100)
        refuse(root, outside, "default.tfrecord", "cut off")


class TestValues:
    """What does not fit into a number, a name or a file system."""

    @pytest.mark.parametrize("number", [2**53, 2**63, -(2**64), 10**30, 1e300, math.inf, math.nan, "1_0", "\u0661"])
    @pytest.mark.parametrize("kind", ["categories", "images"])
    def test_ids(self, root: Path, outside: Path, kind: str, number: Any) -> None:
        edit(root, lambda document: document[kind][0].update(id=number))
        refuse(root, outside, "instances_default.json", f"{kind}[0] needs an 'id'", "15 digits")

    @pytest.mark.parametrize("size", [10**30, 1e300, 2**63, float("inf"), "1_000", "\uff11\uff10", 10**400])
    def test_sizes_are_the_file_s_own(self, root: Path, size: Any) -> None:
        edit(root, lambda document: [image.update(width=size, height=size) for image in document["images"]])
        assert prepare_data(root)["boxes"] == {"train": 4, "val": 2}

    @pytest.mark.parametrize("value", ["1_0", "\u0661\u0660", "9" * 5000, "0x10", "1e400", "inf", "nan"])
    def test_coordinates(self, root: Path, outside: Path, value: str) -> None:
        empty(root)
        write(root / "obj.names", "bolt\n")
        write(root / "train.txt", "images/0000.png\n")
        write(root / "images" / "0000.txt", f"0 0.5 0.5 0.1 {value}\n")
        for number in range(1, 4):
            (root / "images" / f"000{number}.png").unlink()
        what = "has no boxes" if value in ("1e400", "inf", "nan") else "0000.txt, line 1: a coordinate is"
        refuse(root, outside, what)

    @pytest.mark.parametrize("rotation", ["inf", "-inf", "nan", "1e300", "1e400"])
    def test_rotations(self, root: Path, outside: Path, rotation: str) -> None:
        empty(root)
        box = f"<box label='bolt' xtl='1' ytl='1' xbr='9' ybr='9' occluded='0' rotation='{rotation}'/>"
        image = f"<image id='0' name='0000.png' width='64' height='64'>{box}</image>"
        write(root / "annotations.xml", f"<annotations><version>1.1</version>{image}</annotations>")
        if rotation == "1e300":
            assert prepare_data(root, max_lost=100)["boxes"] == {"train": 1, "val": 1}
        else:
            _watched[:] = [os.path.realpath(outside)]
            with refused("has no boxes"):
                prepare_data(root, max_lost=100)

    def test_map_entry_without_a_key(self, root: Path, outside: Path) -> None:
        empty(root)
        write(root / "label_map.pbtxt", "item { id: 1 name: 'bolt' }")
        example = b"\n\4\n\2\x12\0"  # features { feature { value {} } }
        length = struct.pack("<Q", len(example))
        framed = length + struct.pack("<I", masked(length)) + example + struct.pack("<I", masked(example))
        write(root / "default.tfrecord", framed)
        refuse(root, outside, "default.tfrecord, record 0 is not a tf.train.Example")

    def test_names(self, root: Path) -> None:
        names = ["a\ud800", "b\x1b[31m\n", "\u202ec"]

        def change(document: dict[str, Any]) -> None:
            document["categories"] += [
                {"id": 30 + n, "name": name, "supercategory": name} for n, name in enumerate(names)
            ]

        edit(root, change)
        assert {"a\ufffd", "b\ufffd[31m\ufffd", "\u202ec"} <= set(prepare_data(root)["classes"])

    def test_name_without_end(self, root: Path, outside: Path) -> None:
        edit(root, lambda document: document["categories"][0].update(name="x" * 1_000_000))
        refuse(root, outside, "a class has a name of 1,000,000 characters", "rename it")

    def test_folders_without_end(self, root: Path, outside: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(root)
        for _ in range(2_000):
            os.mkdir("deep")
            os.chdir("deep")
        monkeypatch.chdir(root)
        try:
            refuse(root, outside, str(root), "lies too deep: move it up")
        finally:
            # pytest's own removal of old folders goes down by recursion.
            subprocess.run(["rm", "-rf", str(root / "deep")], check=True)

    @pytest.mark.parametrize("name", ["instances_train.json", "instances_val.json"])
    def test_folder_in_the_way_of_an_output(self, root: Path, name: str) -> None:
        (root / "annotations" / name).mkdir()
        done = subprocess.run(
            [sys.executable, "-m", "steps", "prepare", "--dataset-dir", root], capture_output=True, text=True
        )
        assert done.returncode == 2
        said = f"{root}/annotations/{name} cannot be opened or written (Is a directory): move away what is there"
        assert done.stderr == f"error: {said}\n"

    def test_whatever_a_reader_raises_is_a_line(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def broken(*arguments: object, **names: object) -> None:
            raise IndexError("list index out of range")

        monkeypatch.setattr("steps.formats.coco._File.read", broken)
        with refused(root / "annotations" / "instances_default.json", "IndexError: list index out of range"):
            prepare_data(root)


def masked(content: bytes) -> int:
    crc = google_crc32c.value(content)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def record(name: str, image: bytes) -> bytes:
    """A TFRecord of one image with one box, as the Object Detection API has it."""

    def field(number: int, content: bytes) -> bytes:
        size, sizes = len(content), b""
        while size > 127:
            sizes += bytes([size & 127 | 128])
            size >>= 7
        return bytes([number << 3 | 2]) + sizes + bytes([size]) + content

    def feature(key: str, kind: int, values: bytes) -> bytes:
        return field(1, field(1, key.encode()) + field(2, field(kind, values)))

    features = feature("image/filename", 1, field(1, name.encode())) + feature("image/encoded", 1, field(1, image))
    for edge, value in (("xmin", 0.1), ("xmax", 0.5), ("ymin", 0.1), ("ymax", 0.5)):
        features += feature(f"image/object/bbox/{edge}", 2, field(1, struct.pack("<f", value)))
    features += feature("image/object/class/label", 3, field(1, b"\x01"))
    example = field(1, features)
    length = struct.pack("<Q", len(example))
    return length + struct.pack("<I", masked(length)) + example + struct.pack("<I", masked(example))
