"""A COCO file and its images as a torch dataset, and batches of it."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from trainer.boxes import xyxy_to_cxcywh
from trainer.errors import TrainerError
from trainer.transforms import Sample, normalize

Transform = Callable[[Sample, random.Random], Sample]


@dataclass(frozen=True)
class Category:
    """A class: the id that the COCO file gives it, and its name."""

    id: int
    name: str


@dataclass(frozen=True)
class Batch:
    """Images `[B, 3, H, W]`, mask `[B, H, W]` (True where padded) and a target for each image."""

    images: Tensor
    padding_mask: Tensor
    targets: list[dict[str, Tensor]]

    def to(self, device: torch.device) -> Batch:
        """The same batch on a device."""
        return Batch(
            self.images.to(device, non_blocking=True),
            self.padding_mask.to(device, non_blocking=True),
            [{key: value.to(device, non_blocking=True) for key, value in t.items()} for t in self.targets],
        )


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


class CocoDetection(Dataset[tuple[Tensor, dict[str, Tensor]]]):
    """Images with their boxes; images without any are kept, as the model must learn to stay silent.

    An item is an image `[3, H, W]` and its target: `labels` int64 `[n]` in 0..C-1, `boxes` `[n, 4]` (cx, cy,
    w, h in fractions of the transformed image), `image_id` `[1]`, and `orig_size` and `size` `[2]` (height
    and width in px before and after the transform). Crowd regions are left out, boxes are cut at the
    image's edge, and boxes without area go. EXIF orientation is not applied.
    """

    def __init__(
        self,
        path: Path,
        transform: Transform,
        *,
        images_root: Path | None = None,
        label_of: dict[int, int] | None = None,
        seed: int = 0,
    ) -> None:
        """Reads the COCO file and checks that its images are there.

        Args:
            path: the COCO file, in a folder `annotations`.
            transform: applied to every sample.
            images_root: what a relative `file_name` starts from; None for the folder that holds
                `annotations`.
            label_of: label for each category id; None to number the file's categories by ascending id.
            seed: of the augmentation.

        Raises:
            TrainerError: the file cannot be used, an image is missing, or a box has an unknown category.
        """
        self.path = path
        self.transform = transform
        self.seed = seed
        self.coco = read_coco(path)
        self.categories = categories_of(self.coco)
        root = images_root if images_root is not None else path.parent.parent
        self.label_of = (
            label_of if label_of is not None else {category.id: label for label, category in enumerate(self.categories)}
        )
        self.image_ids = [int(image["id"]) for image in self.coco["images"]]
        self.files = [root / image["file_name"] for image in self.coco["images"]]
        for file in self.files:
            if not file.is_file():
                raise TrainerError(f"image {file} does not exist, but {path} names it")
        self._objects = self._group_by_image()

    def _group_by_image(self) -> dict[int, tuple[Tensor, Tensor]]:
        """For each image id the corner boxes `[n, 4]` in px and the labels `[n]`."""
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
        return {
            image_id: (
                torch.tensor([box for box, _ in objects], dtype=torch.float32).reshape(-1, 4),
                torch.tensor([label for _, label in objects], dtype=torch.int64),
            )
            for image_id, objects in rows.items()
        }

    def __len__(self) -> int:
        return len(self.files)

    @property
    def num_boxes(self) -> int:
        """Boxes in the file, crowd regions aside."""
        return sum(len(labels) for _, labels in self._objects.values())

    @property
    def most_boxes(self) -> int:
        """The most boxes that one image has."""
        return max((len(labels) for _, labels in self._objects.values()), default=0)

    def sample(self, index: int) -> Sample:
        """An image as it is on the disk, with its boxes.

        Raises:
            TrainerError: the file is not an image.
        """
        image = read_image(self.files[index])
        boxes, labels = self._objects[self.image_ids[index]]
        width, height = image.size
        limit = torch.tensor([width, height, width, height], dtype=torch.float32)
        boxes = torch.minimum(boxes.clamp(min=0), limit)
        solid = (boxes[:, 2:] > boxes[:, :2]).all(1)
        return Sample(image, boxes[solid], labels[solid])

    def __getitem__(self, key: int | tuple[int, int]) -> tuple[Tensor, dict[str, Tensor]]:
        """The item of an index, or of an (epoch, index): an image is augmented anew in every epoch."""
        epoch, index = key if isinstance(key, tuple) else (0, key)
        original = self.sample(index)
        # Seeded by what the item is, not by when it is drawn: any number of workers, and a run taken up
        # again in the middle of an epoch, see the same pixels.
        sample = self.transform(original, random.Random(f"{self.seed}/{epoch}/{index}"))
        width, height = sample.image.size
        scale = torch.tensor([width, height, width, height], dtype=torch.float32)
        target = {
            "labels": sample.labels,
            "boxes": xyxy_to_cxcywh(sample.boxes) / scale,
            "image_id": torch.tensor([self.image_ids[index]]),
            "orig_size": torch.tensor([original.image.size[1], original.image.size[0]]),
            "size": torch.tensor([height, width]),
        }
        return normalize(sample.image), target


def read_image(file: Path) -> Image.Image:
    """An image in RGB.

    Raises:
        TrainerError: the file cannot be read as an image.
    """
    try:
        with Image.open(file) as image:
            return image.convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise TrainerError(f"image {file} cannot be read ({error}); remove or replace it") from None


def pad(images: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Pads images `[3, H_i, W_i]` at the right and the bottom with zeros (the mean colour).

    Returns:
        `[B, 3, H, W]` with the greatest height and width, and a bool mask `[B, H, W]`, True where padded.
    """
    height = max(image.shape[1] for image in images)
    width = max(image.shape[2] for image in images)
    batch = torch.zeros(len(images), 3, height, width)
    mask = torch.ones(len(images), height, width, dtype=torch.bool)
    for index, image in enumerate(images):
        batch[index, :, : image.shape[1], : image.shape[2]] = image
        mask[index, : image.shape[1], : image.shape[2]] = False
    return batch, mask


def collate(items: list[tuple[Tensor, dict[str, Tensor]]]) -> Batch:
    """Items of the dataset as one batch."""
    return Batch(*pad([image for image, _ in items]), [target for _, target in items])


class EpochSampler(Sampler[list[tuple[int, int]]]):
    """Batches of (epoch, index) in an order that the seed and the epoch fix, from any batch on."""

    def __init__(self, size: int, batch_size: int, seed: int) -> None:
        """Takes the number of images, images a batch, and the seed of the order."""
        self.size = size
        self.batch_size = batch_size
        self.seed = seed
        self.epoch = 0
        self.first_batch = 0

    def __len__(self) -> int:
        return -(-self.size // self.batch_size)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        order = list(range(self.size))
        random.Random(f"{self.seed}/{self.epoch}").shuffle(order)
        for start in range(self.first_batch * self.batch_size, self.size, self.batch_size):
            yield [(self.epoch, index) for index in order[start : start + self.batch_size]]


def train_loader(dataset: CocoDetection, sampler: EpochSampler, workers: int) -> DataLoader[Any]:
    """Batches of a shuffled epoch; set the sampler's `epoch` and `first_batch` before iterating."""
    return _loader(dataset, workers, batch_sampler=sampler)


def eval_loader(dataset: CocoDetection, batch_size: int, workers: int) -> DataLoader[Any]:
    """Batches in the file's order."""
    return _loader(dataset, workers, batch_size=batch_size, shuffle=False)


def _loader(dataset: CocoDetection, workers: int, **how: Any) -> DataLoader[Any]:
    # A generator of its own: the loader would otherwise draw a number from the global one, and dropout
    # after a resume would differ from dropout in a run that was never cut off.
    return DataLoader(
        dataset,
        collate_fn=collate,
        num_workers=workers,
        pin_memory=torch.cuda.is_available(),
        persistent_workers=workers > 0,
        generator=torch.Generator(),
        **how,
    )


def batches(loader: DataLoader[Any]) -> Iterator[Batch]:
    """Iterates a loader; an error of ours in a worker process comes out as it went in.

    Raises:
        TrainerError: an image cannot be read.
    """
    try:
        yield from loader
    except TrainerError as error:
        # torch puts the worker's traceback around the message, whose last line is the message itself.
        line = str(error).strip().splitlines()[-1]
        raise TrainerError(line.removeprefix("trainer.errors.TrainerError: ")) from None
