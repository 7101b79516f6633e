"""Small dumps in every format, most written by datumaro as CVAT does, and what a reader says of them."""

from __future__ import annotations

import struct
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from types import ModuleType
from typing import Any

import datumaro
import google_crc32c
from PIL import Image

from steps.dataset.findings import Findings
from steps.dataset.model import Dataset

CLASSES = ["bolt", "wing nut", "Öse"]


@dataclass(frozen=True)
class Picture:
    """An image of the dumps: boxes are class, x, y, width, height in px."""

    name: str
    subset: str
    size: tuple[int, int]
    boxes: list[tuple[str, float, float, float, float]] = field(default_factory=list)


PICTURES = [
    Picture("a", "train", (64, 48), [("bolt", 2.5, 3.25, 20, 10.5), ("wing nut", 30, 1, 8.25, 40)]),
    Picture("line 1/b", "train", (100, 80), [("Öse", 0, 0, 100, 80)]),
    Picture("c.2", "val", (40, 30), [("bolt", 10, 12, 8.25, 9)]),
    Picture("empty", "val", (40, 30)),
]


def painted(picture: Picture) -> bytes:
    """The image as PNG, different from the others."""
    file = BytesIO()
    Image.new("RGB", picture.size, (PICTURES.index(picture) * 60, 90, 120)).save(file, "png")
    return file.getvalue()


def export(folder: Path, name: str, annotations: Mapping[str, Sequence[Any]] | None = None) -> Path:
    """Write `PICTURES` by datumaro's exporter `name` to `folder`; `annotations` by picture stand for its boxes."""
    source = folder.with_name(f"{folder.name} source")
    items = []
    for picture in PICTURES:
        path = source / f"{picture.name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(painted(picture))
        drawn = annotations.get(picture.name, []) if annotations else boxes_of(picture)
        media = datumaro.Image.from_file(path=str(path))
        items.append(datumaro.DatasetItem(id=picture.name, subset=picture.subset, media=media, annotations=drawn))
    datumaro.Dataset.from_iterable(items, categories=CLASSES).export(str(folder), name, save_media=True)
    return folder


def boxes_of(picture: Picture) -> list[Any]:
    """The picture's boxes as datumaro has them; every second one is occluded."""
    return [
        datumaro.Bbox(
            *box,
            label=CLASSES.index(name),
            id=10 * PICTURES.index(picture) + index + 1,
            attributes={"occluded": bool(index % 2)},
        )
        for index, (name, *box) in enumerate(picture.boxes)
    ]


@dataclass
class Said:
    """What a reader put into the dataset."""

    images: dict[str, list[tuple[str, float, float, float, float]]]
    """By name without folders that the format adds and without suffix: boxes as a picture's, in px."""
    subsets: dict[str, str]
    dataset: Dataset
    findings: dict[str, dict[str, int]]
    """By action, by rule: the count."""


def said(reader: ModuleType, root: Path, exclude: Iterable[str] = (), **options: Any) -> Said:
    """Read the dump in `root`."""
    dataset = Dataset(root, Findings(), tuple(exclude), **options)
    reader.read(root, dataset)
    names = [_bare(name) for name in dataset.names]
    images: dict[str, list[tuple[str, float, float, float, float]]] = {name: [] for name in names}
    boxes = dataset.boxes()
    for image, category, box, relative in zip(boxes.image, boxes.category, boxes.xywh, boxes.relative, strict=True):
        x, y, width, height = (float(value) for value in box)
        across, down = _size(root, names[image]) if relative else (1, 1)
        entry = (dataset.categories[category].name, x * across, y * down, width * across, height * down)
        images[names[image]].append(entry)
    report = dataset.findings.report()
    found = {action: {what: entry["count"] for what, entry in rules.items()} for action, rules in report.items()}
    return Said(
        images,
        dict(zip(names, dataset.subsets, strict=True)),
        dataset,
        {action: counts for action, counts in found.items() if counts},
    )


def _size(root: Path, name: str) -> tuple[int, int]:
    """Of the image file; of the picture of that name where there is no file."""
    base = name.rpartition("/")[2]
    for path in root.rglob("*"):
        if path.suffix in (".png", ".jpg") and unicodedata.normalize("NFC", path.stem) == base:
            return Image.open(path).size
    return next(picture.size for picture in PICTURES if picture.name == name)


def _bare(name: str) -> str:
    *folders, base = name.replace("\\", "/").split("/")
    kept = [folder for folder in folders if folder.startswith("line")]
    return "/".join((*kept, base)).removesuffix(".png").removesuffix(".jpg").removesuffix(".JPG")


def record_file(path: Path, examples: Iterable[Mapping[str, Sequence[Any]]]) -> Path:
    """Write a TFRecord file of `tf.train.Example`s: features by name, each a list of bytes, floats or integers."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        for features in examples:
            record = _message(1, b"".join(_message(1, _feature(*item)) for item in features.items()))
            length = struct.pack("<Q", len(record))
            file.write(length + _checksum(length) + record + _checksum(record))
    return path


def record_of(picture: Picture, **changes: Sequence[Any]) -> dict[str, Sequence[Any]]:
    """A picture's features as TensorFlow's detection API has them."""
    width, height = picture.size
    features: dict[str, Sequence[Any]] = {
        "image/filename": [f"{picture.name}.png".encode()],
        "image/source_id": [b""],
        "image/width": [width],
        "image/height": [height],
        "image/encoded": [painted(picture)],
        "image/format": [b"png"],
    }
    if picture.boxes:
        features |= {
            "image/object/bbox/xmin": [x / width for _, x, _, _, _ in picture.boxes],
            "image/object/bbox/xmax": [(x + w) / width for _, x, _, w, _ in picture.boxes],
            "image/object/bbox/ymin": [y / height for _, _, y, _, _ in picture.boxes],
            "image/object/bbox/ymax": [(y + h) / height for _, _, y, _, h in picture.boxes],
            # datumaro's exporter leaves out what is not ASCII.
            "image/object/class/text": [name.encode("ascii", "ignore") for name, *_ in picture.boxes],
            "image/object/class/label": [CLASSES.index(name) + 1 for name, *_ in picture.boxes],
        }
    return features | {f"image/{name}": values for name, values in changes.items()}


def tfrecord_dump(folder: Path, shards: int = 1) -> Path:
    """`PICTURES` as CVAT's TFRecord dump has them, or in shards as TensorFlow's own tools do."""
    for subset in ("train", "val"):
        pictures = [picture for picture in PICTURES if picture.subset == subset]
        for shard in range(shards):
            name = f"{subset}.tfrecord" + (f"-{shard:05}-of-{shards:05}" if shards > 1 else "")
            record_file(folder / name, map(record_of, pictures[shard::shards]))
    items = (f"item {{\n\tid: {number}\n\tname: '{name}'\n}}\n\n" for number, name in enumerate(CLASSES, 1))
    (folder / "label_map.pbtxt").write_text("".join(items), encoding="utf-8")
    return folder


def _checksum(content: bytes) -> bytes:
    crc = google_crc32c.value(content)
    return struct.pack("<I", (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF)


def _varint(number: int) -> bytes:
    written = bytearray()
    while number > 127:
        written.append(number & 127 | 128)
        number >>= 7
    return bytes([*written, number])


def _message(field_number: int, content: bytes) -> bytes:
    return bytes([field_number << 3 | 2]) + _varint(len(content)) + content


def _feature(name: str, values: Sequence[Any]) -> bytes:
    if values and isinstance(values[0], bytes):
        kind, content = 1, b"".join(_message(1, value) for value in values)
    elif values and isinstance(values[0], float):
        kind, content = 2, _message(1, struct.pack(f"<{len(values)}f", *values))
    else:
        kind, content = 3, _message(1, b"".join(_varint(value % (1 << 64)) for value in values))
    return _message(1, name.encode()) + _message(2, _message(kind, content))
