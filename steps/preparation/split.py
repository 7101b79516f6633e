"""Which images train and which validate."""

import hashlib
import logging
from collections import Counter, defaultdict
from collections.abc import Hashable, Sequence
from typing import Literal, get_args

from steps.common.errors import StepError
from steps.common.messages import printable
from steps.dataset.findings import Findings
from steps.preparation.clean import Clean
from steps.preparation.video import frame_blocks

log = logging.getLogger(__name__)

Split = Literal["auto", "stratified", "random", "blocks", "folder"]
SPLITS: tuple[Split, ...] = get_args(Split)
TRAIN_SUBSETS = {"train", "training"}
VAL_SUBSETS = {"val", "valid", "validation"}
TEST_SUBSETS = {"test", "testing"}
_KNOWN = TRAIN_SUBSETS | VAL_SUBSETS | TEST_SUBSETS
Sets = tuple[list[int], list[int]]
"""Images that train and images that validate, as numbers of `Clean.files`, ascending."""


def split_images(data: Clean, method: Split, val_split: int, seed: int, findings: Findings) -> Sets:
    """Divide the images by one of `SPLITS`.

    An image's side depends on its own name more than on the others', so that adding an image moves few.

    Args:
        data: the images and their boxes.
        method: `auto` keeps the dump's own train and val subsets, and is `stratified` where it has none.
        val_split: percent of the images that validate; 0 for validating on the training images.
        seed: of the choice.
        findings: where images that are left out are noted.

    Raises:
        StepError: the images lie in one folder, and shall be divided by folder.
    """
    everything = list(range(len(data.files)))
    if method == "auto" and (sets := _own_subsets(data, findings)):
        return sets
    if not val_split:
        return _train_on_all(everything, "--val-split is 0")
    order = _order(data.files, seed)
    share = val_split / 100
    if method in ("blocks", "folder"):
        groups = frame_blocks(data.files) if method == "blocks" else _folders(data.files)
        if method == "folder" and len(set(groups)) < 2:
            raise StepError("--split folder needs images in several folders, all are in one: choose another --split")
        val = _whole_groups(groups, share, seed)
    elif method == "random":
        val = set(order[: _count(len(order), share)])
    else:
        val = _stratified(_labels(data), order, share)
    train = [image for image in everything if image not in val]
    with_boxes = set(data.boxes.image.tolist())
    for images in (train, val):
        if not with_boxes.intersection(images):
            return _train_on_all(everything, "only one side of a split would have boxes")
    return train, sorted(val)


def _train_on_all(images: list[int], why: str) -> Sets:
    log.warning("WARNING: %s: validating on the training images; the AP will say little about new images", why)
    return images, images


def _own_subsets(data: Clean, findings: Findings) -> Sets | None:
    """Give the division that the dump comes with, if it has one."""
    names = [subset.lower() for subset in data.subsets]
    there = set(names)
    held_out = there & VAL_SUBSETS or there & TEST_SUBSETS
    if not there & TRAIN_SUBSETS or not held_out:
        return None
    left_out = (there & TEST_SUBSETS) - held_out
    log.info("the dump has its own subsets (%s): they are kept, --val-split is not used", ", ".join(sorted(there)))
    unused = [file for file, name in zip(data.files, names, strict=True) if name in left_out]
    what = "image of the dump's test subset: neither trained nor validated on"
    findings.note_all("skipped", what, unused, len(unused))
    others: dict[str, list[str]] = defaultdict(list)
    for file, subset in zip(data.files, data.subsets, strict=True):
        if subset.lower() not in _KNOWN:
            others[subset].append(file)
    for other, files in sorted(others.items()):
        named = f"the subset '{printable(other)}'" if other else "no subset"
        log.warning("WARNING: %d images are in %s, beside train and validation: they are trained on", len(files), named)
        findings.note_all("noted", f"image in {named}, beside train and validation: trained on", files, len(files))
    val = [image for image, name in enumerate(names) if name in held_out]
    return [image for image, name in enumerate(names) if name not in held_out | left_out], val


def _order(names: Sequence[Hashable], seed: int) -> list[int]:
    """Shuffle by each name alone: another one more leaves the order of these."""

    def place(index: int) -> bytes:
        return hashlib.sha256(f"{seed}/{names[index]}".encode(errors="surrogateescape")).digest()

    return sorted(range(len(names)), key=place)


def _count(total: int, share: float) -> int:
    """How many of so many validate: rounded, but some on either side where that is possible."""
    return min(max(round(total * share), 1), total - 1) if total > 1 else 0


def _labels(data: Clean) -> list[set[int]]:
    """The classes of each image; crowds are not validated on."""
    labels: list[set[int]] = [set() for _ in data.files]
    single = ~data.boxes.crowd
    for image, category in zip(data.boxes.image[single].tolist(), data.boxes.category[single].tolist(), strict=True):
        labels[image].add(category)
    return labels


def _stratified(labels: Sequence[set[int]], order: Sequence[int], share: float) -> set[int]:
    """Divide the images of each class alike, the rarest class first.

    An image counts for its rarest class, and one without boxes for none. Rounding is carried from class to class,
    so that the whole is as large as it should be. Every class in two images or more occurs on both sides.
    """
    images_of = Counter(label for found in labels for label in found)
    strata: dict[int | None, list[int]] = defaultdict(list)
    for image in order:
        rarest = min(labels[image], key=lambda label: (images_of[label], label), default=None)
        strata[rarest].append(image)
    # Images without boxes last, where the rounding of all others is known.
    keys = sorted(strata, key=lambda label: (label is None, images_of[label] if label is not None else 0, label or 0))
    val: set[int] = set()
    seen: set[int] = set()
    total = 0
    for key in keys:
        stratum = strata[key]
        total += len(stratum)
        needed = key is None or key not in seen
        count = max(round(total * share) - len(val), int(needed))
        chosen = stratum[: min(count, len(stratum) - 1)]
        val.update(chosen)
        seen.update(label for image in chosen for label in labels[image])
    _let_every_class_validate(labels, order, images_of, val)
    return val


def _let_every_class_validate(
    labels: Sequence[set[int]], order: Sequence[int], images_of: Counter[int], val: set[int]
) -> None:
    """Move an image of each class that one side lacks, where that takes no class from the other."""
    in_val = Counter(label for image in val for label in labels[image])
    with_label: dict[int, list[int]] = defaultdict(list)
    for image in order:
        for label in labels[image]:
            with_label[label].append(image)
    for label in sorted(images_of, key=lambda label: (images_of[label], label)):
        if images_of[label] < 2 or 0 < in_val[label] < images_of[label]:
            continue
        if in_val[label]:
            movable = (
                image
                for image in reversed(with_label[label])
                if image in val and all(in_val[x] > 1 for x in labels[image])
            )
        else:
            movable = (
                image
                for image in with_label[label]
                if image not in val and all(images_of[x] - in_val[x] > 1 for x in labels[image])
            )
        moved = next(movable, None)
        if moved is not None:
            val ^= {moved}
            in_val.update(dict.fromkeys(labels[moved], 1 if moved in val else -1))


def _whole_groups(groups: Sequence[Hashable], share: float, seed: int) -> set[int]:
    """Let whole groups of images validate until their number is as near to the share as it gets."""
    members: dict[Hashable, list[int]] = defaultdict(list)
    for image, group in enumerate(groups):
        members[group].append(image)
    names = list(members)
    val: set[int] = set()
    wanted = len(groups) * share
    for index in _order(names, seed):
        images = members[names[index]]
        if len(val) + len(images) < len(groups) and abs(len(val) + len(images) - wanted) < abs(len(val) - wanted):
            val.update(images)
    if not val and len(names) > 1:
        # Every group is more than twice what was asked for: the smallest is nearest.
        val.update(min(members.values(), key=lambda images: len(list(images))))
    return val


def _folders(files: Sequence[str]) -> list[Hashable]:
    return [file.rpartition("/")[0] for file in files]
