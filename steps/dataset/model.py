"""What a dump says, before anything of it is judged."""

from array import array
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from steps.common.budgets import LARGEST_SIDE, LONGEST_CLASS
from steps.common.errors import StepError
from steps.common.messages import cleaned, printable, some
from steps.common.numbers import to_float
from steps.dataset.containment import path_inside
from steps.dataset.findings import Findings
from steps.dataset.layout import EMBEDDED

FrameOrder = Literal["auto", "lexicographical", "natural"]
"""CVAT's sorting methods of a task's images that can be known from names; `auto`: where both agree."""
FRAME_ORDERS: tuple[FrameOrder, ...] = get_args(FrameOrder)
Crowds = Literal["auto", "regions", "objects"]
CROWDS: tuple[Crowds, ...] = get_args(Crowds)


@dataclass(frozen=True)
class Category:
    """A class: the id it will have in COCO, and its name."""

    id: int
    name: str
    supercategory: str = ""


@dataclass(frozen=True)
class Boxes:
    """Boxes in columns, a row each: int64 `image`, `category` `[n]`; float64 `xywh` `[n, 4]`; bool `crowd`,
    `relative` `[n]`."""

    image: NDArray[np.int64]
    category: NDArray[np.int64]
    xywh: NDArray[np.float64]
    crowd: NDArray[np.bool_]
    relative: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.image)

    def __getitem__(self, rows: NDArray[Any]) -> "Boxes":
        return Boxes(self.image[rows], self.category[rows], self.xywh[rows], self.crowd[rows], self.relative[rows])


class Dataset:
    """What a dump says, in columns, so that a million boxes are cheap; readers fill it in the dump's order.

    Readers check what they must to read on, and pass the rest as it is written: whether images exist, which
    file a name means, and whether a box is any good is judged once, later, for all formats.
    """

    def __init__(
        self,
        root: Path,
        findings: Findings,
        exclude: Collection[str] = (),
        *,
        crowds: Crowds = "auto",
        frame_order: FrameOrder = "auto",
    ) -> None:
        """Starts empty.

        Args:
            root: the dataset's folder; readers open nothing outside it.
            findings: where readers note what they met.
            exclude: attributes, each `name` or `name=value`; boxes that have one are left out.
            crowds: what COCO's `iscrowd: 1` means; `auto`: what it means to the tool that wrote the file.
            frame_order: how the task's images were sorted, for formats that number them by their place.
        """
        self.root = root
        self.findings = findings
        self.crowds = crowds
        self.frame_order = frame_order
        self.categories: list[Category] = []
        self.names: list[str] = []
        """Of the images, as the dump writes them."""
        self.subsets: list[str] = []
        self.sizes: list[tuple[int, int] | None] = []
        """Width and height in px as the dump says; None where it does not."""
        self.sources: list[int] = []
        """The annotation file that lists each image, by its number in `source_names`."""
        self.source_names: list[str] = []
        self.files: dict[int, str] = {}
        """Images whose file in `root` is known without looking for their name."""
        self.masks: set[str] = set()
        """Image files in `root` that hold masks, not photographs."""
        self.lost_objects = 0
        """Objects that the dump shows, and of which it does not hold what a box needs."""
        self.video = False
        """Whether the format says that the images are frames of a video."""
        self.exclude = tuple(exclude)
        self.attributes_seen: set[str] = set()
        self._excluded = [(name.strip(), value.strip()) for name, _, value in (rule.partition("=") for rule in exclude)]
        self._by_name: dict[str, int] = {}
        self._ids: set[int] = set()
        self._next_id = 1
        self._chunks: list[Boxes] = []
        self._embedded_files: set[str] = set()
        self._rows: list[tuple[int, int, bool, bool]] = []
        self._numbers = array("d")

    def begin(self, source: Path) -> None:
        """Say which annotation file the images from now on are listed in; one file is said once, or not at all."""
        self.source_names.append(source.relative_to(self.root).as_posix())

    def __str__(self) -> str:
        return f"{some(self.source_names)} in {self.root}" if self.source_names else f"the dump in {self.root}"

    def category(self, name: str, *, id: int | None = None, supercategory: str = "") -> int:
        """Give the index of a class; a name that is not known yet is added, with `id` where that is free."""
        if (known := self._by_name.get(name)) is not None:
            return known
        if len(name) > LONGEST_CLASS:
            raise StepError(
                f"{self}: a class has a name of {len(name):,} characters, '{printable(name)}': rename it in CVAT"
            )
        if (plain := cleaned(name)) != name:
            self.findings.note("repaired", "class name with control characters", name)
            self._by_name[name] = index = self.category(plain, id=id, supercategory=supercategory)
            return index
        if id is None or id in self._ids:
            id = self._next_id
        self._next_id = max(self._next_id, id + 1)
        self._ids.add(id)
        self._by_name[name] = index = len(self.categories)
        self.categories.append(Category(id, name, cleaned(supercategory[:LONGEST_CLASS])))
        return index

    def image(self, name: str, *, subset: str = "", width: Any = None, height: Any = None) -> int:
        """Add an image; give its index.

        Args:
            name: path as the dump writes it, with or without the folder of images, of this machine or another's;
                without a suffix it means the image file of that stem.
            subset: of the dump, such as `train`.
            width: in px, where the dump says.
            height: in px, where the dump says.
        """
        self.names.append(name)
        self.subsets.append(subset)
        self.sizes.append(_size(width, height))
        self.sources.append(max(len(self.source_names) - 1, 0))
        return len(self.names) - 1

    def embedded(self, name: str, content: bytes, *, subset: str = "", width: Any = None, height: Any = None) -> int:
        """Add an image that the dump holds inside of another file: it is written below `embedded`.

        Raises:
            StepError: `name` leads out of that folder, two images have it, or a file is in its way.
        """
        parts = path_inside(name)
        file = "/".join((EMBEDDED, *path_inside(subset), *parts)) if parts else ""
        if not file or any(len(part.encode()) > 250 or not part.isprintable() for part in parts):
            raise StepError(f"an image inside the dump is named '{printable(name)}', which no file can be: rename it")
        if file in self._embedded_files:
            raise StepError(f"two images inside the dump are named '{printable(name)}': rename one")
        self._embedded_files.add(file)
        target = self.root / file
        if not (target.is_file() and target.stat().st_size == len(content) and target.read_bytes() == content):
            unfinished = self.root / EMBEDDED / ".part-image"
            try:
                target.parent.mkdir(parents=True, exist_ok=True)
                # Renamed, so that a killed run leaves no half of it; not flushed, as a next run compares the bytes.
                unfinished.write_bytes(content)
                unfinished.replace(target)
            except (FileExistsError, IsADirectoryError, NotADirectoryError):
                raise StepError(
                    f"an image inside the dump is named '{printable(name)}', but {target} needs a folder where a file "
                    "is, or a file where a folder is: rename one"
                ) from None
        index = self.image(name, subset=subset, width=width, height=height)
        self.files[index] = file
        return index

    def box(
        self,
        image: int,
        category: int,
        x: Any,
        y: Any,
        width: Any,
        height: Any,
        *,
        crowd: bool = False,
        relative: bool = False,
        attributes: Mapping[str, Any] | None = None,
    ) -> None:
        """Add a box.

        Args:
            image: index that `image` gave.
            category: index that `category` gave.
            x: of the left edge, in px, or in fractions of the image where `relative`; any number, not a number too.
            y: of the upper edge.
            width: of the box.
            height: of the box.
            crowd: whether it is a region of many objects, which is not trained on.
            relative: whether the numbers are fractions of the image's width and height.
            attributes: what the dump says of the box, such as `occluded`: only looked at to leave boxes out.
        """
        if attributes and self.excludes(attributes, lambda: self.names[image]):
            return
        try:
            numbers = [to_float(x), to_float(y), to_float(width), to_float(height)]
        except ValueError:
            self.findings.note("dropped", "box that is not four numbers", self.names[image])
            return
        if isinstance(x, str) or isinstance(y, str) or isinstance(width, str) or isinstance(height, str):
            self.findings.note("repaired", "box written as text", self.names[image])
        self._numbers.extend(numbers)
        self._rows.append((image, category, crowd, relative))

    def add_boxes(
        self, image: ArrayLike, category: ArrayLike, xywh: ArrayLike, crowd: ArrayLike, *, relative: bool = False
    ) -> None:
        """Add many boxes in px at once: `image`, `category` and `crowd` `[n]`, `xywh` `[n, 4]`."""
        self._flush()
        images = np.asarray(image, np.int64)
        self._chunks.append(
            Boxes(
                images,
                np.asarray(category, np.int64),
                np.asarray(xywh, np.float64).reshape(-1, 4),
                np.asarray(crowd, bool),
                np.full(len(images), relative),
            )
        )

    def boxes(self) -> Boxes:
        """Give all boxes in the order in which they were added."""
        self._flush()
        columns = zip(*((b.image, b.category, b.xywh, b.crowd, b.relative) for b in self._chunks), strict=True)
        if not self._chunks:
            none = np.zeros(0, np.int64)
            return Boxes(none, none, np.zeros((0, 4)), none.astype(bool), none.astype(bool))
        self._chunks = [Boxes(*(np.concatenate(column) for column in columns))]
        return self._chunks[0]

    def excludes(self, attributes: Mapping[str, Any], where: Callable[[], str]) -> bool:
        """Tell whether a box with these attributes is to be left out, and count it if so."""
        if not self._excluded:
            return False
        self.attributes_seen.update(attributes)
        for name, wanted in self._excluded:
            value = attributes.get(name)
            if str(value) == wanted if wanted else _is_set(value):
                rule = f"box with the attribute {name}={wanted}" if wanted else f"box with the attribute {name}"
                self.findings.note("skipped", rule, where())
                return True
        return False

    def _flush(self) -> None:
        if not self._rows:
            return
        rows = np.array(self._rows, np.int64)
        self._chunks.append(
            Boxes(
                rows[:, 0],
                rows[:, 1],
                np.array(self._numbers).reshape(-1, 4),
                rows[:, 2].astype(bool),
                rows[:, 3].astype(bool),
            )
        )
        self._rows, self._numbers = [], array("d")


def _size(width: Any, height: Any) -> tuple[int, int] | None:
    try:
        size = int(to_float(width)), int(to_float(height))
    except (ValueError, OverflowError):  # Infinity has no whole number.
        return None
    return size if min(size) > 0 and max(size) <= LARGEST_SIDE else None


def _is_set(value: Any) -> bool:
    """Tell whether an attribute is on, in the many ways that formats write it."""
    return str(value).strip().lower() not in ("", "0", "0.0", "false", "no", "none")
