"""A look at the data before the training: what will keep the model from learning, in words."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator

import torch

from trainer.data.coco_dataset import CocoDetection
from trainer.data.leakage import Look, choose_images, leaks, look_at
from trainer.data.transforms import scaled

_FEW_BOXES = 10
"""Boxes below which a class is hardly learned."""
_SMALL_SIDE = 4
"""Px of a box's shorter side below which there is too little to see."""
_WORTH_SAYING = 0.02
"""Share of boxes or images from which on a matter is no accident."""
_FEW_VAL_IMAGES, _FEW_VAL_BOXES = 20, 50
_SHOWN = 3


def look_over(
    train_set: CocoDetection,
    val_set: CocoDetection,
    *,
    max_objects: tuple[str, int] | None,
    image_size: int,
    max_size: int,
) -> list[str]:
    """Says what is wrong with the data, and what to do about it.

    Args:
        train_set: images to learn from.
        val_set: images to validate on, under the numbering of classes of `train_set`.
        max_objects: the setting that limits how many objects the model finds in an image, and its value; None without
            a limit.
        image_size: shorter side in px to predict at.
        max_size: limit in px for the longer side.

    Returns:
        One line for each matter, the most important first; none for data without fault. At most 2000 images are
        opened.

    Raises:
        TrainerError: an image cannot be read.
    """
    on_training_set = {file.resolve() for file in train_set.files} == {file.resolve() for file in val_set.files}
    train_look, val_look = (
        look_at(dataset, chosen)
        for dataset, chosen in zip((train_set, val_set), choose_images(train_set, val_set), strict=True)
    )
    lines = [*_wrong_sizes(train_look, val_look), *_classes_to_learn(train_set)]
    if max_objects is not None:
        lines += _objects_beyond_limit(train_set, val_set, *max_objects)
    lines += _small_boxes(train_set, image_size, max_size)
    if on_training_set:
        lines.append(
            "the validation images are the training images: AP says how well they were learned by heart, and"
            " nothing about new ones; set val-split above 0 or annotate images for it"
        )
    else:
        lines += leaks(train_set, val_set, train_look, val_look)
        lines += _few_to_validate(val_set)
        lines += _classes_to_validate(train_set, val_set)
    return lines


def _boxes_by_class(dataset: CocoDetection) -> Counter[int]:
    """Boxes of each label."""
    return Counter(label for index in range(len(dataset)) for label in dataset.objects(index)[1].tolist())


def _classes_to_learn(train_set: CocoDetection) -> Iterator[str]:
    counts = _boxes_by_class(train_set)
    names = [category.name for category in train_set.categories]
    absent = [name for label, name in enumerate(names) if not counts[label]]
    if absent:
        yield (
            f"no training image has a box of {_class_list(absent)}: nothing can be learned of it;"
            " annotate some, or remove the label"
        )
    rare = [f"{name} ({counts[label]})" for label, name in enumerate(names) if 0 < counts[label] < _FEW_BOXES]
    if rare:
        yield (
            f"fewer than {_FEW_BOXES} training boxes of {_class_list(rare)}, where the most frequent class has"
            f" {max(counts.values())}: it will hardly be found; annotate more, or merge it with another"
        )


def _classes_to_validate(train_set: CocoDetection, val_set: CocoDetection) -> Iterator[str]:
    learned, counts = _boxes_by_class(train_set), _boxes_by_class(val_set)
    absent = [
        category.name for label, category in enumerate(train_set.categories) if learned[label] and not counts[label]
    ]
    if absent and counts:
        yield (
            f"no validation image has a box of {_class_list(absent)}: AP leaves it out;"
            " annotate more, or raise val-split"
        )


def _few_to_validate(val_set: CocoDetection) -> Iterator[str]:
    if not len(val_set) or not val_set.num_boxes:
        what = "boxes on the validation images" if len(val_set) else "validation images"
        yield f"there are no {what}: no AP is measured, and the last epoch counts as the best; raise val-split"
    elif len(val_set) < _FEW_VAL_IMAGES or val_set.num_boxes < _FEW_VAL_BOXES:
        yield (
            f"{len(val_set)} validation images with {val_set.num_boxes} boxes are few: AP will move by several"
            f" points by chance; annotate more, or raise val-split (to trust it, {_FEW_VAL_IMAGES} images and"
            f" {_FEW_VAL_BOXES} boxes at the very least)"
        )


def _objects_beyond_limit(train_set: CocoDetection, val_set: CocoDetection, setting: str, limit: int) -> Iterator[str]:
    crowded = [count for dataset in (train_set, val_set) for count in dataset.boxes_by_image if count > limit]
    if crowded:
        # A quarter more than the fullest image: not every prediction finds something.
        wanted = math.ceil(max(crowded) * 1.25 / 10) * 10
        yield (
            f"{len(crowded)} image(s) have more boxes than the {limit} that the model finds at most, the"
            f" fullest {max(crowded)}: set {setting} to {wanted}"
        )


def _small_boxes(train_set: CocoDetection, image_size: int, max_size: int) -> Iterator[str]:
    sides, labels = [], []
    for index, size in enumerate(train_set.sizes):
        boxes, of_box = train_set.objects(index)
        scale = scaled(size, image_size, max_size)[0] / size[0]
        sides.append((boxes[:, 2:] - boxes[:, :2]).min(1).values * scale)
        labels.append(of_box)
    shorter = torch.cat(sides)
    small = shorter < _SMALL_SIDE
    if not len(shorter) or small.float().mean() < _WORTH_SAYING:
        return
    counts = Counter(torch.cat(labels)[small].tolist())
    hit = [f"{train_set.categories[label].name} ({count})" for label, count in counts.most_common()]
    # The size at which all but the tolerated share are large enough; the stride of the network divides it.
    factor = _SMALL_SIDE / max(float(shorter.quantile(_WORTH_SAYING)), 0.01)
    wanted = math.ceil(image_size * factor / 32) * 32
    remedy = f"raise image_size to {wanted} and max_size to {math.ceil(max_size * wanted / image_size)}"
    if factor > 3:
        remedy = "cut the images into tiles, or leave such boxes out"
    yield (
        f"{int(small.sum())} of {len(small)} training boxes are less than {_SMALL_SIDE} px wide or high at image_size"
        f" {image_size}, of {_list(hit)}: they will not be found; {remedy}"
    )


def _wrong_sizes(*looks: Look) -> Iterator[str]:
    wrong = [
        f"{file.name} is {there[0]}x{there[1]}, listed as {listed[0]}x{listed[1]}"
        for look in looks
        for file, listed, there in zip(look.files, look.listed, look.sizes, strict=True)
        if listed != there
    ]
    if wrong:
        yield (
            f"{len(wrong)} of {sum(len(look.files) for look in looks)} images looked at are not of the size that the"
            f" annotations are for ({wrong[0]}): their boxes lie elsewhere; dump images and annotations together"
        )


def _class_list(names: list[str]) -> str:
    return f"class{'' if len(names) == 1 else 'es'} {_list(names)}"


def _list(names: Iterable[str]) -> str:
    names = list(names)
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
