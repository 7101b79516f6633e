"""TF Detection API: `*.tfrecord`, in one file or in shards, with the images inside, and `label_map.pbtxt`.

Read without TensorFlow. A record is framed by its length and checksums (tensorflow/core/lib/io/record_writer.h)
and holds a `tf.train.Example` in protobuf's wire format (tensorflow/core/example/example.proto,
protobuf.dev/programming-guides/encoding).
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import google_crc32c

from steps.common.budgets import LARGEST_MAP
from steps.common.errors import StepError
from steps.dataset.lookup import files_below, is_image
from steps.dataset.model import Dataset
from steps.formats import text
from steps.formats.objects import NO_CATEGORY

TAG = "cvat_tfrecord"
TITLE = "TFRecord 1.0"

_SHARD = re.compile(r"-\d{5}-of-\d{5}")
_TOKEN = re.compile(
    r"\s+|\#[^\n]*|(?P<word>[\w.+-]+)"
    # A quote ends text where a line, an item or another field follows: datumaro does not escape those inside.
    r"|(?P<quote>['\"])(?P<text>[^\n]*?)(?P=quote)(?=\s*(?:[,;}#\n]|\w+\s*:|$))"
    r"|(?P<sign>.)",
    re.ASCII,
)
_BOX = ("xmin", "xmax", "ymin", "ymax")
_SUFFIXES = {b"jpeg": ".jpg", b"jpg": ".jpg", b"png": ".png"}

Feature = list[bytes] | list[float] | list[int]


def recognise(root: Path) -> list[Path]:
    """Give the record files, shards too."""
    return files_below(root, lambda name: _SHARD.sub("", name).endswith((".tfrecord", ".tfrecords", ".record")))


def read(root: Path, dataset: Dataset) -> None:
    """Read every record; its image is written out below the dataset.

    A class is the label map's name for the number, or else the text beside it. A box with neither is dropped.

    Raises:
        StepError: a record is cut off or damaged, or its fields do not fit together.
    """
    names: dict[int, str] = {}
    for path in files_below(root, lambda name: name.lower().endswith(".pbtxt")):
        names |= label_map(path)
    for name in names.values():
        dataset.category(name)
    for path in recognise(root):
        dataset.begin(path)
        subset = _SHARD.sub("", path.name).rpartition(".")[0]
        for index, record in enumerate(records(path)):
            _read_example(record, f"{path}, record {index}", names, subset, dataset)


def label_map(path: Path) -> dict[int, str]:
    """Read the names of classes by their numbers.

    Raises:
        StepError: an item lacks its `id` or `name`.
    """
    if path.stat().st_size > LARGEST_MAP:
        raise StepError(f"{path} is larger than any label map: dump the task again")
    content = text.read_text(path)
    items: list[tuple[int, dict[str, str]]] = []
    before: list[str] = []
    for token in _TOKEN.finditer(content):
        if token["quote"] is None and token["sign"] in ("'", '"'):
            line = content.count("\n", 0, token.start()) + 1
            raise StepError(f"{path}, line {line}: a quotation mark without its other half: dump the task again")
        written = token["text"] if token["quote"] else token["word"] or token["sign"]
        if written is None:
            continue
        if written == "{" and [word for word in before if word != ":"][-1:] == ["item"]:
            items.append((token.start(), {}))
        elif items and before == [field := "name" if token["quote"] else "id", ":"]:
            items[-1][1].setdefault(field, written)
        before = [*before[-1:], written]
    names: dict[int, str] = {}
    for start, item in items:
        if item.keys() != {"id", "name"}:
            line = content.count("\n", 0, start) + 1
            raise StepError(f"{path}, line {line}: an item needs an 'id' and a 'name': dump the task again")
        names[text.whole(item["id"], str(path), "an 'id'")] = _unescaped(item["name"])
    if not names:
        raise StepError(f"{path} holds no 'item {{ id: 1 name: ... }}': dump the task again")
    return names


def _unescaped(name: str) -> str:
    """Read protobuf's text escapes, whose octal numbers are bytes of UTF-8; other writers use none."""
    if "\\" not in name:
        return name
    escapes = re.compile(rb"\\([0-7]{1,3}|.)")
    plain = {b"n": b"\n", b"t": b"\t"}

    def replaced(match: re.Match[bytes]) -> bytes:
        code = match[1]
        return bytes([int(code, 8) & 255]) if code.isdigit() else plain.get(code, code)

    return escapes.sub(replaced, name.encode()).decode(errors="replace")


def records(path: Path) -> Iterator[bytes]:
    """Yield the records of a file, their checksums compared.

    Raises:
        StepError: the file is cut off, or a checksum differs.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        place = 0
        while header := file.read(12):
            damage = f"{path} is damaged at byte {place}: dump the task again, without compression of the records"
            if len(header) < 12 or _checksum(header[:8]) != struct.unpack("<I", header[8:])[0]:
                raise StepError(damage)
            (length,) = struct.unpack("<Q", header[:8])
            if length > size - place - 16:
                raise StepError(f"{path} is cut off in the record at byte {place}: fetch or dump it again")
            record, checksum = file.read(length), file.read(4)
            if _checksum(record) != struct.unpack("<I", checksum)[0]:
                raise StepError(damage)
            place += length + 16
            yield record


def _checksum(content: bytes) -> int:
    """CRC-32C, masked as TFRecord has it."""
    crc = google_crc32c.value(content)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def _read_example(record: bytes, where: str, names: Mapping[int, str], subset: str, dataset: Dataset) -> None:
    try:
        features = example(record)
    except (ValueError, LookupError, struct.error):
        raise StepError(f"{where} is not a tf.train.Example: dump the task again as '{TITLE}'") from None
    image = _image(features, where, subset, dataset)
    edges = {edge: features.get(f"image/object/bbox/{edge}", []) for edge in _BOX}
    count = len(edges["xmin"])
    labels = features.get("image/object/class/label", [])
    words = features.get("image/object/class/text", [])
    if any(len(values) != count for values in edges.values()) or (count and count not in (len(labels), len(words))):
        raise StepError(f"{where}: its boxes have different counts of edges and classes: dump the task again")
    for index in range(count):
        number = labels[index] if index < len(labels) else 0
        word = words[index] if index < len(words) else b""
        name = _class_name(number, word, names, dataset, image)
        if not name:
            dataset.findings.note("dropped", NO_CATEGORY, dataset.names[image])
            continue
        left, right, top, bottom = (text.number(edges[edge][index], where, edge) for edge in _BOX)
        dataset.box(image, dataset.category(name), left, top, right - left, bottom - top, relative=True)


def _class_name(number: Any, word: Any, names: Mapping[int, str], dataset: Dataset, image: int) -> str:
    said = word.decode(errors="replace") if isinstance(word, bytes) else ""
    name = names.get(number, "")
    # datumaro leaves out all but printable ASCII from the text, so that it may be shorter, or empty.
    if name and said and said not in (name, "".join(sign for sign in name if sign.isascii() and sign.isprintable())):
        dataset.findings.note("repaired", "class whose text and number disagree, its text used", dataset.names[image])
        return said
    return name or said


def _image(features: Mapping[str, Feature], where: str, subset: str, dataset: Dataset) -> int:
    name = _first(features, "image/filename", b"")
    content = _first(features, "image/encoded", b"")
    kind = _first(features, "image/format", b"")
    size = {side: _first(features, f"image/{side}", 0) or None for side in ("width", "height")}
    if not isinstance(name, bytes) or not isinstance(content, bytes) or not name:
        raise StepError(f"{where} has no 'image/filename': dump the task again as '{TITLE}'")
    title = name.decode(errors="replace")
    if not content:
        return dataset.image(title, subset=subset, **size)
    if not is_image(title):
        title += _SUFFIXES.get(kind, ".jpg") if isinstance(kind, bytes) else ".jpg"
    return dataset.embedded(title, content, subset=subset, **size)


def _first(features: Mapping[str, Feature], name: str, default: Any) -> Any:
    values = features.get(name)
    return values[0] if values else default


def example(record: bytes) -> dict[str, Feature]:
    """Read the features of a `tf.train.Example`.

    Raises:
        ValueError, IndexError, struct.error: the bytes are not such a message.
    """
    features: dict[str, Feature] = {}
    for field, block in _fields(record):
        if field != 1:
            continue
        for entry_field, entry in _fields(_block(block)):
            if entry_field == 1:
                pair = dict(_fields(_block(entry)))
                features[_block(pair[1]).decode()] = _feature(_block(pair.get(2, b"")))
    return features


def _feature(message: bytes) -> Feature:
    """Field 1 is a list of bytes, 2 of floats, 3 of int64; each holds its values in its field 1."""
    for kind, values in _fields(message):
        items = [value for field, value in _fields(_block(values)) if field == 1]
        if kind == 1:
            return [_block(item) for item in items]
        if kind == 2:
            return [number for item in items for number in _floats(item)]
        if kind == 3:
            return [number for item in items for number in _integers(item)]
    return []


def _fields(message: bytes) -> Iterator[tuple[int, bytes | int]]:
    """The number and the value of each field; a value of fixed length is its bytes."""
    place = 0
    while place < len(message):
        key, place = _varint(message, place)
        wire_type = key & 7
        if wire_type == 0:
            number, place = _varint(message, place)
            yield key >> 3, number
            continue
        if wire_type == 2:
            length, place = _varint(message, place)
        elif wire_type in (1, 5):
            length = 8 if wire_type == 1 else 4
        else:
            raise ValueError
        if length > len(message) - place:
            raise ValueError
        yield key >> 3, message[place : place + length]
        place += length


def _varint(message: bytes, place: int) -> tuple[int, int]:
    number = shift = 0
    while True:
        byte = message[place]
        place += 1
        number |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            return number, place
        if shift > 63:
            raise ValueError


def _block(value: bytes | int) -> bytes:
    if isinstance(value, int):
        raise ValueError
    return value


def _floats(item: bytes | int) -> Iterator[float]:
    """One float32, or many packed: the bytes are the same."""
    return (number for (number,) in struct.iter_unpack("<f", _block(item)))


def _integers(item: bytes | int) -> Iterator[int]:
    if isinstance(item, int):
        yield _signed(item)
        return
    place = 0
    while place < len(item):
        number, place = _varint(item, place)
        yield _signed(number)


def _signed(number: int) -> int:
    return number - (1 << 64) if number >> 63 else number
