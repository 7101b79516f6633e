from __future__ import annotations

import gzip
import struct
from pathlib import Path
from typing import Any

import google_crc32c
import pytest

from steps.formats import tfrecord
from tests.steps.formats.dumps import PICTURES, painted, record_file, record_of, said, tfrecord_dump
from tests.steps.refusals import refused

PICTURE = PICTURES[0]


@pytest.fixture
def dump(tmp_path: Path) -> Path:
    return tfrecord_dump(tmp_path)


def one(root: Path, features: dict[str, Any] | None = None, **changes: Any) -> Path:
    """A file of one record of the first picture's, some features changed."""
    return record_file(root / "train.tfrecord", [{**record_of(PICTURE, **changes), **(features or {})}])


class TestImages:
    def test_are_written_out_as_they_are(self, dump: Path) -> None:
        dataset = said(tfrecord, dump).dataset
        written = [(dump / dataset.files[index]).read_bytes() for index in range(len(dataset.names))]
        assert written == [painted(picture) for picture in PICTURES]
        assert dataset.sizes == [picture.size for picture in PICTURES]

    def test_twice_gives_the_same(self, dump: Path) -> None:
        def files() -> dict[str, bytes]:
            return {str(path): path.read_bytes() for path in dump.rglob("*") if path.is_file()}

        first = said(tfrecord, dump)
        before = files()
        again = said(tfrecord, dump)
        assert files() == before
        assert (again.images, again.dataset.files) == (first.images, first.dataset.files)

    def test_half_written_image_is_mended(self, dump: Path) -> None:
        file = dump / said(tfrecord, dump).dataset.files[0]
        file.write_bytes(file.read_bytes()[:9])
        said(tfrecord, dump)
        assert file.read_bytes() == painted(PICTURES[0])

    @pytest.mark.parametrize(("kind", "suffix"), [(b"png", ".png"), (b"jpeg", ".jpg"), (b"jpg", ".jpg"), (b"", ".jpg")])
    def test_suffix_comes_from_the_format(self, tmp_path: Path, kind: bytes, suffix: str) -> None:
        one(tmp_path, filename=[b"v1.scene"], format=[kind])
        assert said(tfrecord, tmp_path).dataset.files[0].endswith(f"/v1.scene{suffix}")

    def test_image_outside_of_the_record_is_named(self, dump: Path) -> None:
        one(dump, encoded=[b""])
        dataset = said(tfrecord, dump).dataset
        assert dataset.names[0] == "a.png"
        assert 0 not in dataset.files

    @pytest.mark.parametrize("name", ["../../evil.png", "a/../../../evil.png", "..\\..\\evil.png"])
    def test_name_that_leads_out_is_refused(self, tmp_path: Path, name: str) -> None:
        root = tmp_path / "inner" / "dump"
        one(root, filename=[name.encode()])
        before = sorted(tmp_path.rglob("*"))
        with refused("evil.png", "outside"):
            said(tfrecord, root)
        assert sorted(tmp_path.rglob("*")) == before

    @pytest.mark.parametrize("name", ["/etc/evil.png", "C:\\evil.png", "//host/share/evil.png"])
    def test_absolute_name_stays_inside(self, tmp_path: Path, name: str) -> None:
        one(tmp_path / "dump", filename=[name.encode()])
        dataset = said(tfrecord, tmp_path / "dump").dataset
        assert (tmp_path / "dump" / dataset.files[0]).resolve().is_relative_to(tmp_path / "dump")


class TestRecords:
    def test_shards(self, tmp_path: Path, dump: Path) -> None:
        expected = said(tfrecord, dump)
        found = said(tfrecord, tfrecord_dump(tmp_path / "shards", shards=2))
        assert (found.images, found.subsets) == (expected.images, expected.subsets)

    @pytest.mark.parametrize("cut", [1, 4, 5, 100])
    def test_cut_off(self, tmp_path: Path, cut: int) -> None:
        path = one(tmp_path)
        path.write_bytes(path.read_bytes()[:-cut])
        with refused(path, "cut off in the record at byte 0", "again"):
            said(tfrecord, tmp_path)

    @pytest.mark.parametrize("place", [0, 8, 40, -1])
    def test_flipped_bit(self, tmp_path: Path, place: int) -> None:
        path = one(tmp_path)
        content = bytearray(path.read_bytes())
        content[place] ^= 1
        path.write_bytes(content)
        with refused(path, "damaged at byte 0", "again"):
            said(tfrecord, tmp_path)

    def test_compressed(self, tmp_path: Path) -> None:
        path = one(tmp_path)
        path.write_bytes(gzip.compress(path.read_bytes()))
        with refused(path, "without compression"):
            said(tfrecord, tmp_path)

    def test_length_beyond_memory(self, tmp_path: Path) -> None:
        length = struct.pack("<Q", 1 << 60)
        crc = google_crc32c.value(length)
        masked = (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF
        path = tmp_path / "train.tfrecord"
        path.write_bytes(length + struct.pack("<I", masked) + b"x" * 100)
        with refused(path, "cut off"):
            said(tfrecord, tmp_path)

    def test_no_example(self, tmp_path: Path) -> None:
        record = b"\xff\xff\xff\xff"
        length = struct.pack("<Q", len(record))

        def masked(content: bytes) -> bytes:
            crc = google_crc32c.value(content)
            return struct.pack("<I", (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF)

        path = tmp_path / "train.tfrecord"
        path.write_bytes(length + masked(length) + record + masked(record))
        with refused(path, "record 0 is not a tf.train.Example"):
            said(tfrecord, tmp_path)

    @pytest.mark.parametrize(
        ("changes", "words"),
        [
            ({"object/bbox/xmax": [0.5]}, ["different counts"]),
            ({"object/class/label": [1], "object/class/text": [b"bolt"]}, ["different counts"]),
            ({"filename": []}, ["no 'image/filename'"]),
        ],
    )
    def test_fields_that_do_not_fit(self, tmp_path: Path, changes: dict[str, Any], words: list[str]) -> None:
        path = one(tmp_path, {f"image/{name}": values for name, values in changes.items()})
        with refused(path, "record 0", *words):
            said(tfrecord, tmp_path)

    def test_no_boxes(self, tmp_path: Path) -> None:
        record_file(tmp_path / "train.tfrecord", [record_of(PICTURES[3])])
        assert said(tfrecord, tmp_path).images == {"empty": []}


class TestClasses:
    def labels(self, root: Path, **changes: Any) -> list[str]:
        one(root, {f"image/object/class/{name}": values for name, values in changes.items()})
        return [label for label, *_ in said(tfrecord, root).images["a"]]

    def test_numbers_alone(self, dump: Path) -> None:
        assert self.labels(dump, text=[]) == ["bolt", "wing nut"]

    def test_text_alone(self, tmp_path: Path) -> None:
        assert self.labels(tmp_path, label=[]) == ["bolt", "wing nut"]

    def test_text_without_a_map(self, tmp_path: Path) -> None:
        assert self.labels(tmp_path) == ["bolt", "wing nut"]

    def test_disagreement_is_counted(self, dump: Path) -> None:
        one(dump, {"image/object/class/text": [b"wing nut", b"wing nut"]})
        found = said(tfrecord, dump)
        assert [label for label, *_ in found.images["a"]] == ["wing nut", "wing nut"]
        assert found.findings == {"repaired": {"class whose text and number disagree, its text used": 1}}

    def test_neither_drops_the_box(self, dump: Path) -> None:
        one(dump, {"image/object/class/text": [b"", b""], "image/object/class/label": [0, 9]})
        found = said(tfrecord, dump)
        assert found.images["a"] == []
        assert found.findings == {"dropped": {"box of an unlisted category": 2}}

    @pytest.mark.parametrize(
        ("text", "names"),
        [
            ("item {\n\tid: 1\n\tname: 'bolt'\n}\n\nitem {\n id: 2\n name: \"nut\"\n}\n", {1: "bolt", 2: "nut"}),
            ("item { name: 'bolt' id: 1 } item{id:2 name:'nut'}", {1: "bolt", 2: "nut"}),
            ("item { id: 1 name: 'id: 7' }", {1: "id: 7"}),
            ("item {\n  id: 1\n  name: 'it's a { bolt }'\n}\n", {1: "it's a { bolt }"}),
            ("item {\n  name: '/m/01'\n  id: 1\n  display_name: 'Bolt'\n}\n", {1: "/m/01"}),
            ("item {\r\n  id: 1\r\n  name: '\\303\\226se'\r\n}\r\n", {1: "Öse"}),
            ("item {\n id: 1\n name: 'It\\'s'\n}\n", {1: "It's"}),
        ],
    )
    def test_label_map(self, tmp_path: Path, text: str, names: dict[int, str]) -> None:
        path = tmp_path / "label_map.pbtxt"
        path.write_text(text, encoding="utf-8", newline="")
        assert tfrecord.label_map(path) == names

    @pytest.mark.parametrize(
        ("text", "words"),
        [
            ("item {\n id: 1\n}\n", ["line 1: an item needs an 'id' and a 'name'"]),
            ("nothing", ["holds no 'item"]),
        ],
    )
    def test_label_map_malformed(self, dump: Path, text: str, words: list[str]) -> None:
        (dump / "label_map.pbtxt").write_text(text)
        with refused(dump / "label_map.pbtxt", *words):
            said(tfrecord, dump)
