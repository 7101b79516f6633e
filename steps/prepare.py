"""Turn a dump into a train and a validation set that exist on this machine."""

import hashlib
import json
import logging
import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Annotated, Any

import orjson
import typer
from PIL import Image

from steps.errors import StepError
from steps.fetch import STATE_DIR
from steps.files import write_json
from steps.options import DatasetDir, Seed

log = logging.getLogger(__name__)

IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm", ".jp2"}
DUMP_FORMATS = ("cvat_coco",)
MADE_BY = "prepare-data"
"""Value of `info.made_by` in the files that this step writes, so that it never reads them as a dump."""
VAL_SUBSETS = {"val", "valid", "validation"}
SHOWN = 3
"""How many offenders a message names before it counts the rest."""


def prepare_data(
    dataset_dir: DatasetDir,
    val_split: Annotated[
        int,
        typer.Option(min=0, max=99, help="Percent of the images that validate. 0: validate on the training set."),
    ] = 20,
    seed: Seed = 0,
    dump_format: Annotated[
        str,
        typer.Option(help="Format of the dump, as CVAT names it; cvat_coco is read. Empty: look at the files."),
    ] = "cvat_coco",
) -> dict[str, Any]:
    """Write `annotations/instances_train.json` and `instances_val.json` from a CVAT COCO dump.

    Their `file_name`s are absolute paths of existing images; category ids are the dump's own. The two sets are
    disjoint, and the same for the same images and seed; a dump with subsets `train` and `val` keeps them.
    Images without boxes stay, as negatives. What was kept, repaired and dropped is counted in
    `prepare_report.json`.

    Returns:
        The content of `prepare_report.json`.

    Raises:
        StepError: the dump has no readable annotations, no boxes, or its images are missing or ambiguous.
    """
    dataset_dir = Path(dataset_dir).absolute()
    if not 0 <= val_split <= 99:
        raise StepError(f"--val-split is {val_split}: give a percentage from 0 to 99")
    if dump_format not in ("", *DUMP_FORMATS):
        raise StepError(f"--dump-format {dump_format} is not read yet: let CVAT dump {' or '.join(DUMP_FORMATS)}")
    if not dataset_dir.is_dir():
        raise StepError(f"--dataset-dir {dataset_dir} is not a folder: the fetch step makes it, run that first")

    images_there = _ImagesThere(dataset_dir)
    dump = _Dump(images_there)
    for source in _sources(dataset_dir):
        dump.add(source)
    dump.check()

    train, val = _split(dump, val_split, seed)
    annotations = dataset_dir / "annotations"
    write_json(annotations / "instances_train.json", dump.coco(train), indent=False)
    write_json(annotations / "instances_val.json", dump.coco(val), indent=False)
    report = dump.report(train, val)
    write_json(dataset_dir / "prepare_report.json", report)
    _log(report)
    return report


@dataclass
class _Source:
    """One annotation file of the dump."""

    path: Path
    subset: str
    content: dict[str, Any]


def _sources(dataset_dir: Path) -> list[_Source]:
    """Read the dump's annotation files, moving aside those named as our own output is."""
    aside = dataset_dir / "annotations" / "dump"
    found: list[_Source] = []
    for path in sorted(dataset_dir.rglob("instances_*.json")):
        if STATE_DIR in path.relative_to(dataset_dir).parts:
            continue
        content = _read_coco(path)
        if isinstance(info := content.get("info"), dict) and info.get("made_by") == MADE_BY:
            continue
        if path.parent == aside.parent and path.stem in ("instances_train", "instances_val"):
            aside.mkdir(exist_ok=True)
            path = path.replace(aside / path.name)
        found = [source for source in found if source.path != path]
        found.append(_Source(path, path.stem.removeprefix("instances_"), content))
    if not found:
        there = sorted(path.name for path in dataset_dir.iterdir() if not path.name.startswith("."))
        listing = f"it holds {', '.join(there[:6])}" if there else "it is empty"
        raise StepError(
            f"{dataset_dir} holds no annotations/instances_*.json ({listing}): dump the task in CVAT as 'COCO 1.0'"
        )
    return found


def _read_coco(path: Path) -> dict[str, Any]:
    content = path.read_bytes()
    try:
        document = orjson.loads(content)
    except orjson.JSONDecodeError:
        try:
            # Slower, but takes the byte order mark and the NaN that some exporters write.
            document = json.loads(content.decode("utf-8-sig"))
        except UnicodeDecodeError:
            raise StepError(f"{path} is not UTF-8 text: dump the task again") from None
        except json.JSONDecodeError as error:
            raise StepError(
                f"{path} is not readable JSON (line {error.lineno}, column {error.colno}: {error.msg}): "
                "dump the task again"
            ) from None
        except RecursionError:
            raise StepError(f"{path} is not readable JSON (nested too deeply): dump the task again") from None
    if not isinstance(document, dict):
        raise StepError(f"{path} is not a COCO file: its top level is no object")
    for name in ("images", "annotations", "categories"):
        if not isinstance(document.get(name), list):
            raise StepError(f"{path} is not a COCO file: '{name}' is {'no list' if name in document else 'missing'}")
        for index, entry in enumerate(document[name]):
            if not isinstance(entry, dict):
                raise StepError(f"{path}: {name}[{index}] is no object: dump the task again")
    return document


class _ImagesThere:
    """The image files of the dump, found by the names that annotations give them."""

    def __init__(self, dataset_dir: Path) -> None:
        self.root = dataset_dir
        self._by_base_name: dict[str, list[PurePosixPath]] = defaultdict(list)
        self.count = 0
        for path in sorted(dataset_dir.rglob("*")):
            relative = PurePosixPath(path.relative_to(dataset_dir).as_posix())
            if relative.parts[0] != STATE_DIR and path.suffix.lower() in IMAGE_SUFFIXES and path.is_file():
                self._by_base_name[path.name].append(relative)
                self.count += 1

    def resolve(self, file_name: str, subset: str) -> list[PurePosixPath]:
        """Give the files that `file_name` can mean: one where it is clear, none, or several.

        The exact places come first: below `images/<subset>`, `images`, and the dump's root. Else the files that
        share the longest tail of path segments, because exporters write paths of their own machine.
        """
        # A Windows path is read as what it is, wherever it was written.
        parts = [part for part in re.split(r"[\\/]+", file_name) if part not in ("", ".")]
        if not parts:
            return []
        candidates = self._by_base_name.get(parts[-1], [])
        tail = tuple(parts)
        for exact in (("images", subset, *tail), ("images", *tail), tail):
            for candidate in candidates:
                if candidate.parts == exact:
                    return [candidate]

        def shared(candidate: PurePosixPath) -> int:
            pairs = zip(reversed(candidate.parts), reversed(tail), strict=False)
            return next((count for count, (a, b) in enumerate(pairs) if a != b), min(len(candidate.parts), len(tail)))

        longest = max(map(shared, candidates), default=0)
        return [candidate for candidate in candidates if shared(candidate) == longest]


@dataclass
class _Image:
    name: str
    """Path in the dump's folder: the image's identity."""
    subset: str
    width: int
    height: int
    boxes: list[dict[str, Any]] = field(default_factory=list)


class _Dump:
    """Everything that the annotation files say, checked and put together."""

    def __init__(self, there: _ImagesThere) -> None:
        self._there = there
        self.images: dict[str, _Image] = {}
        self.categories: dict[str, dict[str, Any]] = {}
        """By name; ids are the first file's, or the next free number."""
        self.repaired: Counter[str] = Counter()
        self.dropped: Counter[str] = Counter()
        self._named: dict[str, str] = {}
        self._missing: list[str] = []
        self._listed = 0
        self._paths: list[Path] = []

    def add(self, source: _Source) -> None:
        self._paths.append(source.path)
        category_names = self._add_categories(source)
        images = self._add_images(source)
        for index, annotation in enumerate(source.content["annotations"]):
            image = images.get(_id(annotation.get("image_id")))
            name = category_names.get(_id(annotation.get("category_id")))
            if image is None:
                self.dropped["box of an image that is not listed"] += 1
            elif name is None:
                self.dropped["box of a category that is not listed"] += 1
            elif (box := self._box(annotation, image, f"{source.path}: annotations[{index}]")) is not None:
                image.boxes.append(
                    {
                        "category_id": self.categories[name]["id"],
                        "bbox": box,
                        "area": box[2] * box[3],
                        "iscrowd": int(annotation.get("iscrowd") or 0),
                    }
                )

    def _add_categories(self, source: _Source) -> dict[Any, str]:
        names: dict[Any, str] = {}
        for index, category in enumerate(source.content["categories"]):
            identifier, name = _id(category.get("id")), category.get("name")
            if identifier is None or not isinstance(name, str | int) or str(name) == "":
                raise StepError(f"{source.path}: categories[{index}] needs an 'id' and a 'name'")
            name = str(name)
            if identifier in names:
                raise StepError(
                    f"{source.path}: the categories '{names[identifier]}' and '{name}' have the same id {identifier}: "
                    "dump the task again"
                )
            names[identifier] = name
            if name in self.categories:
                continue
            taken = {known["id"] for known in self.categories.values()}
            free = identifier if identifier not in taken else max(taken) + 1
            supercategory = str(category.get("supercategory") or "")
            self.categories[name] = {"id": free, "name": name, "supercategory": supercategory}
        return names

    def _add_images(self, source: _Source) -> dict[Any, _Image]:
        images: dict[Any, _Image] = {}
        for index, listed in enumerate(source.content["images"]):
            identifier, file_name = _id(listed.get("id")), listed.get("file_name")
            if identifier is None or not isinstance(file_name, str):
                raise StepError(f"{source.path}: images[{index}] needs an 'id' and a 'file_name'")
            if identifier in images:
                raise StepError(f"{source.path}: two images have the id {identifier}: dump the task again")
            self._listed += 1
            found = self._there.resolve(file_name, source.subset)
            if not found:
                self._missing.append(file_name)
                continue
            if len(found) > 1:
                raise StepError(
                    f"{source.path}: '{file_name}' can be {_some(map(str, found))} below {self._there.root}: "
                    "name it by its folder"
                )
            name = str(found[0])
            if self._named.setdefault(name, file_name) != file_name:
                raise StepError(
                    f"{source.path}: '{self._named[name]}' and '{file_name}' both lead to "
                    f"{self._there.root / name}, the only image of that name: dump the task again with its folders"
                )
            if name not in self.images:
                self.images[name] = self._image(name, source, listed)
            images[identifier] = self.images[name]
        return images

    def _image(self, name: str, source: _Source, listed: dict[str, Any]) -> _Image:
        path = self._there.root / name
        try:
            with Image.open(path) as image:
                width, height = image.size
        except (OSError, Image.DecompressionBombError) as error:
            raise StepError(
                f"{path} is not a readable image ({error}): replace it or remove it from the task"
            ) from None
        if (listed.get("width"), listed.get("height")) != (width, height):
            self.repaired["image size other than the file's"] += 1
        return _Image(name, source.subset, width, height)

    def _box(self, annotation: dict[str, Any], image: _Image, where: str) -> list[float] | None:
        """Give the box as x, y, width and height in pixels within the image, or None when there is none left."""
        bbox = annotation.get("bbox")
        try:
            x, y, width, height = map(float, bbox)  # type: ignore[arg-type] # whatever is no sequence is caught
        except (TypeError, ValueError):
            raise StepError(f"{where}: 'bbox' is {bbox!r:.60}, not four numbers: dump the task again") from None
        if not all(map(math.isfinite, (x, y, width, height))):
            self.dropped["box that is not finite"] += 1
            return None
        if width <= 0 or height <= 0:
            self.dropped["box without width or height"] += 1
            return None
        left, top = max(x, 0.0), max(y, 0.0)
        right, bottom = min(x + width, float(image.width)), min(y + height, float(image.height))
        if right <= left or bottom <= top:
            self.dropped["box outside its image"] += 1
            return None
        # Exporters round to hundredths: less than that is no repair worth a word.
        if max(left - x, top - y, x + width - right, y + height - bottom) > 0.01:
            self.repaired["box clipped to its image"] += 1
            return [left, top, right - left, bottom - top]
        return [left, top, min(width, right - left), min(height, bottom - top)]

    def check(self) -> None:
        """Refuse what cannot be trained on."""
        files = _some(path.name for path in self._paths)
        if self._missing:
            remedy = (
                "tick 'Save images' when dumping" if not self._there.count else "dump the task again with its images"
            )
            raise StepError(
                f"{len(self._missing)} of the {self._listed} images of {files} are not in {self._there.root} "
                f"({_some(self._missing)}): {remedy}"
            )
        if not self.images:
            raise StepError(f"{files} in {self._there.root} lists no image: dump a task that has some")
        if not any(image.boxes for image in self.images.values()):
            dropped = f" ({sum(self.dropped.values())} were dropped)" if self.dropped else ""
            raise StepError(
                f"{files} in {self._there.root} holds no box{dropped}: annotate some objects in CVAT, dump again"
            )

    def coco(self, images: Sequence[_Image]) -> dict[str, Any]:
        """Give a set as a COCO document; image and annotation ids count from 1 over the whole dump."""
        numbers = {name: number for number, name in enumerate(sorted(self.images), start=1)}
        chosen = {image.name for image in images}
        annotations = []
        number = 0
        for name in sorted(self.images):
            for box in self.images[name].boxes:
                number += 1
                if name in chosen:
                    annotations.append({"id": number, "image_id": numbers[name], **box, "segmentation": []})
        return {
            "info": {"made_by": MADE_BY, "description": "made from a CVAT dump"},
            "categories": self._sorted_categories(),
            "images": [
                {
                    "id": numbers[image.name],
                    "file_name": str(self._there.root / image.name),
                    "width": image.width,
                    "height": image.height,
                }
                for image in sorted(images, key=lambda image: image.name)
            ],
            "annotations": annotations,
        }

    def _sorted_categories(self) -> list[dict[str, Any]]:
        return sorted(self.categories.values(), key=lambda category: category["id"])

    def report(self, train: Sequence[_Image], val: Sequence[_Image]) -> dict[str, Any]:
        """Count what was kept, repaired and dropped."""
        names = {category["id"]: name for name, category in self.categories.items()}

        def per_class(images: Iterable[_Image]) -> Counter[str]:
            return Counter(names[box["category_id"]] for image in images for box in image.boxes)

        in_train, in_val = per_class(train), per_class(val)
        return {
            "images": {
                "train": len(train),
                "val": len(val),
                "without_boxes": sum(not image.boxes for image in self.images.values()),
            },
            "boxes": {"train": in_train.total(), "val": in_val.total()},
            "classes": {
                category["name"]: {"train": in_train[category["name"]], "val": in_val[category["name"]]}
                for category in self._sorted_categories()
            },
            "validated_on_training_set": {image.name for image in train} == {image.name for image in val},
            "repaired": dict(sorted(self.repaired.items())),
            "dropped": dict(sorted(self.dropped.items())),
        }


def _id(value: Any) -> Any:
    """Give an id that can be looked up; ids are integers, and some tools write them as text."""
    if isinstance(value, bool) or not isinstance(value, int | str):
        return None
    return int(value) if isinstance(value, str) and value.lstrip("-").isdigit() else value


def _some(names: Iterable[str]) -> str:
    listed = list(names)
    more = f" and {len(listed) - SHOWN} more" if len(listed) > SHOWN else ""
    return ", ".join(listed[:SHOWN]) + more


def _split(dump: _Dump, val_split: int, seed: int) -> tuple[list[_Image], list[_Image]]:
    """Divide the images; those with and those without boxes each in the same proportion."""
    images = list(dump.images.values())
    subsets = {image.subset.lower() for image in images}
    if "train" in subsets and subsets & VAL_SUBSETS:
        log.info(
            "the dump has its own subsets (%s): they are kept, --val-split is not used",
            ", ".join(sorted(subsets)),
        )
        return (
            [image for image in images if image.subset.lower() not in VAL_SUBSETS],
            [image for image in images if image.subset.lower() in VAL_SUBSETS],
        )

    def share(group: list[_Image]) -> int:
        """How many of the group validate: rounded, but some on either side where that is possible."""
        return min(max(round(len(group) * val_split / 100), 1), len(group) - 1) if len(group) > 1 else 0

    # The order depends on each image's name alone: adding an image to the task moves no other one.
    def place(image: _Image) -> bytes:
        return hashlib.sha256(f"{seed}/{image.name}".encode()).digest()

    train, val = [], []
    if val_split:
        for has_boxes in (True, False):
            group = sorted((image for image in images if bool(image.boxes) is has_boxes), key=place)
            count = share(group)
            val += group[:count]
            train += group[count:]
    if not val:
        reason = "--val-split is 0" if not val_split else "there is a single image with boxes"
        log.warning("WARNING: %s: validating on the training images; the AP will say little about new images", reason)
        return images, images
    return train, val


def _log(report: dict[str, Any]) -> None:
    images, boxes = report["images"], report["boxes"]
    log.info(
        "%d images and %d boxes to train on, %d and %d to validate on; %d images have no box",
        images["train"], boxes["train"], images["val"], boxes["val"], images["without_boxes"],
    )  # fmt: skip
    for name, counts in report["classes"].items():
        log.info("  class %s: %d boxes to train on, %d to validate on", name, counts["train"], counts["val"])
        if not counts["train"]:
            log.warning("WARNING: class '%s' has no box in the training set: it cannot be learnt", name)
    for action in ("repaired", "dropped"):
        for reason, count in report[action].items():
            log.info("  %s: %d x %s", action, count, reason)
