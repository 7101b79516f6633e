"""A COCO file and its images as a torch dataset."""

from __future__ import annotations

import itertools
import json
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.ops import box_convert

from trainer.data.fingerprint import file_digest, split_digest
from trainer.data.images import read_image, read_size
from trainer.data.transforms import Sample, Size, Transform, to_tensor
from trainer.errors import TrainerError

_A_FEW = 10
"""Boxes of a class from which on it says something about others of it."""


@dataclass(frozen=True)
class Category:
    """A class: the id that the COCO file gives it, and its name."""

    id: int
    name: str


def annotation_file(dataset_dir: Path, split: str) -> Path:
    """Where a split's COCO file lies in a dataset folder."""
    return dataset_dir / "annotations" / f"instances_{split}.json"


def read_coco(path: Path) -> dict[str, Any]:
    """Reads a COCO file of objects.

    Raises:
        TrainerError: the file is missing, is not JSON or lacks one of its three lists.
    """
    if not path.is_file():
        raise TrainerError(f"annotation file {path} does not exist")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise TrainerError(f"annotation file {path} is not JSON ({error}); export the dataset again") from None
    for key in ("images", "annotations", "categories"):
        if not isinstance(content, dict) or not isinstance(content.get(key), list):
            raise TrainerError(f"annotation file {path} has no list '{key}'; export it in COCO format")
    return content


def categories_of(coco: dict[str, Any]) -> list[Category]:
    """The classes by ascending id; a class's place in this list is its label, whatever its id."""
    return sorted((Category(int(c["id"]), str(c["name"])) for c in coco["categories"]), key=lambda c: c.id)


def ids_by_label(coco: dict[str, Any], classes: list[Category], path: Path) -> list[int]:
    """The id that a COCO file gives each of a model's classes; -1 for a class that it does not list.

    CVAT numbers the labels of a task in their order, so the id of a class may change from one export to
    the next while its name stays: classes are found by id and name, else by name.

    Raises:
        TrainerError: the file has boxes of a class that is not among them.
    """
    listed = categories_of(coco)
    by_name = {category.name: category.id for category in listed}
    ids = [category.id if category in listed else by_name.get(category.name, -1) for category in classes]
    used = {int(annotation["category_id"]) for annotation in coco["annotations"]}
    unknown = [category.name for category in listed if category.id in used and category.id not in ids]
    if unknown:
        raise TrainerError(
            f"{path} has boxes of class '{unknown[0]}', which the model does not know;"
            f" it knows {', '.join(category.name for category in classes)}"
        )
    return ids


class CocoDetection(Dataset[tuple[Tensor, dict[str, Tensor]]]):
    """Images with their boxes; images without any are kept, as the model must learn to stay silent.

    An item is an image uint8 `[3, H, W]` and its target: `labels` int64 `[n]` in 0..C-1, `boxes` `[n, 4]` (cx, cy,
    w, h in fractions of the transformed image), `image_id` `[1]`, and `orig_size` and `size` `[2]` (height
    and width in px before and after the transform). Crowd regions are left out, boxes are cut at the
    image's edge, and boxes without area go. Images are turned upright as their EXIF orientation says.
    """

    def __init__(
        self,
        path: Path,
        transform: Transform,
        *,
        images_root: Path | None = None,
        classes: list[Category] | None = None,
        seed: int = 0,
    ) -> None:
        """Reads the COCO file and checks that its images are there.

        Args:
            path: the COCO file, in a folder `annotations`.
            transform: applied to every sample.
            images_root: what a relative `file_name` starts from; None for the folder that holds
                `annotations`.
            classes: by label; None for the file's own, by ascending id.
            seed: of the augmentation.

        Raises:
            TrainerError: the file cannot be used or is not as it was written, an image is missing, or a box has an
                unknown category.
        """
        self.path = path
        self.transform = transform
        self.seed = seed
        self.coco = read_coco(path)
        root = images_root if images_root is not None else path.parent.parent
        try:
            self._take_in(root, classes)
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
            raise TrainerError(
                f"annotation file {path} is damaged or not in COCO's form ({type(error).__name__}: {error});"
                " export the dataset again"
            ) from None

    def _take_in(self, root: Path, classes: list[Category] | None) -> None:
        path = self.path
        self.categories = categories_of(self.coco)
        self.category_ids = ids_by_label(self.coco, self.categories if classes is None else classes, path)
        self.label_of = {category_id: label for label, category_id in enumerate(self.category_ids) if category_id >= 0}
        self.image_ids = [int(image["id"]) for image in self.coco["images"]]
        self.files = [root / image["file_name"] for image in self.coco["images"]]
        for file in self.files:
            if not file.is_file():
                raise TrainerError(f"image {file} does not exist, but {path} names it")
        self._boxes, self._labels, self._starts = self._group_by_image()
        self.sizes = [self._size(number) for number in range(len(self.files))]
        self.digest = self._digest()
        self.info = self.coco["info"] if isinstance(self.coco.get("info"), dict) else {}
        if self.info.get("split_digest", self.digest) != self.digest:
            raise TrainerError(f"{path} is damaged or was edited since it was written; prepare the dataset again")

    def _size(self, index: int) -> Size:
        """Width and height in px, as the file says, or else the image."""
        listed = self.coco["images"][index]
        width, height = int(listed.get("width") or 0), int(listed.get("height") or 0)
        return (width, height) if width > 0 and height > 0 else read_size(self.files[index])

    def _digest(self) -> str:
        """What tells the split from others: `trainer.data.fingerprint.split_digest`.

        An image is told from others by the SHA-256 that the file gives for it, which holds when it is read; where the
        file gives none, by its name and length.
        """
        places = {image_id: place for place, image_id in enumerate(self.image_ids)}
        rows = self.coco["annotations"]
        return split_digest(
            ((category.id, category.name) for category in self.categories),
            (
                (image.get("sha256") or f"{file.name} {file.stat().st_size}", *size)
                for image, file, size in zip(self.coco["images"], self.files, self.sizes, strict=True)
            ),
            [places.get(row.get("image_id"), -1) for row in rows],
            [int(row["category_id"]) for row in rows],
            [_xywh(row.get("bbox")) for row in rows],
            [float(row.get("area") or 0) for row in rows],
            [bool(row.get("iscrowd", 0)) for row in rows],
        )

    def _group_by_image(self) -> tuple[Tensor, Tensor, list[int]]:
        """Corner boxes `[n, 4]` in px and labels `[n]`, image after image, and where each image's begin, with the end.

        Two tensors in all: a worker that is not forked is handed every tensor by a file descriptor of its own, of
        which a process may have a thousand.
        """
        rows: dict[int, list[tuple[list[float], int]]] = {image_id: [] for image_id in self.image_ids}
        for annotation in self.coco["annotations"]:
            if annotation.get("iscrowd", 0):
                continue
            image_id, category_id = int(annotation["image_id"]), int(annotation["category_id"])
            if image_id not in rows:
                raise TrainerError(f"{self.path}: annotation {annotation.get('id')} is of no image in it")
            if category_id not in self.label_of:
                raise TrainerError(f"{self.path}: a box has category {category_id}, which is not known")
            x, y, width, height = (float(value) for value in annotation["bbox"])
            rows[image_id].append(([x, y, x + width, y + height], self.label_of[category_id]))
        grouped = [rows[image_id] for image_id in self.image_ids]
        boxes = [box for objects in grouped for box, _ in objects]
        labels = [label for objects in grouped for _, label in objects]
        return (
            torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
            torch.tensor(labels, dtype=torch.int64),
            [0, *itertools.accumulate(len(objects) for objects in grouped)],
        )

    def __len__(self) -> int:
        return len(self.files)

    @property
    def num_boxes(self) -> int:
        """Boxes in the file, crowd regions aside."""
        return len(self._labels)

    @property
    def boxes_by_image(self) -> list[int]:
        """How many boxes each image has, crowd regions aside."""
        return [stop - start for start, stop in itertools.pairwise(self._starts)]

    @property
    def most_boxes(self) -> int:
        """The most boxes that one image has."""
        return max(self.boxes_by_image, default=0)

    @property
    def smallest_class(self) -> tuple[str, float] | None:
        """The class with the smallest objects, of those that have a few, and how small they are; None without any.

        The number is the median of their sides, roots of the boxes' areas, as shares of their images' shorter sides.
        """
        sides = (self._boxes[:, 2:] - self._boxes[:, :2]).clamp(min=0).prod(1).sqrt()
        shorter = [min(size) for size, count in zip(self.sizes, self.boxes_by_image, strict=True) for _ in range(count)]
        shares = sides / torch.tensor(shorter)
        medians = {
            category.name: float(own.median())
            for label, category in enumerate(self.categories)
            if len(own := shares[self._labels == label]) >= _A_FEW
        }
        return min(medians.items(), key=lambda item: item[1], default=None)

    def objects(self, index: int, size: Size | None = None) -> tuple[Tensor, Tensor]:
        """Boxes `[n, 4]` (x0, y0, x1, y1 in px) and labels `[n]` of an image, cut at the edge of `size`.

        None stands for the size that the file gives.
        """
        size = size or self.sizes[index]
        own = slice(self._starts[index], self._starts[index + 1])
        boxes, labels = self._boxes[own], self._labels[own]
        boxes = torch.minimum(boxes.clamp(min=0), torch.tensor([*size, *size], dtype=torch.float32))
        solid = (boxes[:, 2:] > boxes[:, :2]).all(1)
        return boxes[solid], labels[solid]

    def sample(self, index: int) -> Sample:
        """An image as it is on the disk, with its boxes.

        Raises:
            TrainerError: the file is not an image, or not the one that the COCO file means.
        """
        file, wanted = self.files[index], self.coco["images"][index].get("sha256")
        image = read_image(file)
        if wanted is not None and file_digest(file) != wanted:
            raise TrainerError(f"image {file} is not the one that was prepared; fetch and prepare the dataset again")
        return Sample(image, *self.objects(index, image.size))

    def sizes_in(self, epoch: int) -> list[Size]:
        """Width and height in px that the transform gives each image in an epoch; no image is opened."""
        return [self.transform.plan(size, self._chance(epoch, index)).size for index, size in enumerate(self.sizes)]

    def _chance(self, epoch: int, index: int) -> random.Random:
        # Seeded by what the item is, not by when or where it is drawn: any number of workers and processes,
        # and a run that resumes in the middle of an epoch, see the same pixels.
        return random.Random(f"{self.seed}/{epoch}/{index}")

    def __getitem__(self, key: int | tuple[int, int]) -> tuple[Tensor, dict[str, Tensor]]:
        """The item of an index, or of an (epoch, index): an image is augmented anew in every epoch."""
        epoch, index = key if isinstance(key, tuple) else (0, key)
        original = self.sample(index)
        sample = self.transform(original, self._chance(epoch, index))
        width, height = sample.image.size
        scale = torch.tensor([width, height, width, height], dtype=torch.float32)
        target = {
            "labels": sample.labels,
            "boxes": box_convert(sample.boxes, "xyxy", "cxcywh") / scale,
            "image_id": torch.tensor([self.image_ids[index]]),
            "orig_size": torch.tensor([original.image.size[1], original.image.size[0]]),
            "size": torch.tensor([height, width]),
        }
        return to_tensor(sample.image), target


def _xywh(box: Any) -> tuple[float, ...]:
    """Four numbers; zeros for a crowd region that is given by its mask alone."""
    try:
        x, y, width, height = (float(value) for value in box)
    except (TypeError, ValueError):
        return (0.0,) * 4
    return x, y, width, height
