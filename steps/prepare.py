"""Turn a dump into a train and a validation set that exist on this machine."""

import gc
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from steps.common.errors import StepError
from steps.common.files import replacing, write_json
from steps.common.lock import only_writer
from steps.common.messages import printable
from steps.dataset.containment import refuse_ways_out
from steps.dataset.findings import Findings
from steps.dataset.layout import PREPARED, REPORT
from steps.dataset.model import CROWDS, FRAME_ORDERS, Dataset
from steps.dump.target import LOCK, dump_name
from steps.formats import DEFAULT_TAG, TAGS, check_tag, read_dump
from steps.formats.coco import is_ours
from steps.options import DatasetDir, Seed, choice
from steps.preparation.clean import Clean, clean
from steps.preparation.coco_writer import by_id, coco_file
from steps.preparation.digest import digest_of
from steps.preparation.image_lookup import find_images, image_files
from steps.preparation.split import SPLITS, Split, split_images
from steps.preparation.video import likely_video
from trainer.data.fingerprint import dataset_digest

log = logging.getLogger(__name__)

MOST_SHOWN = 1_000
"""Classes that have a line in the log."""


def prepare_data(
    dataset_dir: DatasetDir,
    val_split: Annotated[
        int,
        typer.Option(min=0, max=99, help="Percent of the images that validate. 0: validate on the training set."),
    ] = 20,
    seed: Seed = 0,
    dump_format: Annotated[
        str,
        typer.Option(help=f"Format of the dump, as CVAT names it: {', '.join(TAGS)}. Empty: look at the files."),
    ] = DEFAULT_TAG,
    split: Annotated[
        str,
        choice(
            SPLITS,
            help="How to split: stratified by class, random, blocks of a video's frames, or by folder. "
            "auto: the dump's own train and val, else stratified.",
        ),
    ] = "auto",
    exclude: Annotated[
        str, typer.Option(help="Attributes, with commas: boxes that have one are left out, as in occluded,size=small.")
    ] = "",
    crowds: Annotated[
        str,
        choice(
            CROWDS,
            help="What COCO's iscrowd 1 means: crowd regions, which are not trained on, or objects. "
            "auto: objects in a file of CVAT's, which marks every mask so, else regions.",
        ),
    ] = "auto",
    frame_order: Annotated[
        str,
        choice(
            FRAME_ORDERS,
            help="How the task's images were sorted, for MOT and CVAT for video, which number them: lexicographical "
            "(CVAT's default) or natural. auto: refuse where it matters.",
        ),
    ] = "auto",
    max_lost: Annotated[
        int,
        typer.Option(
            min=0, max=100, help="Percent of the images or boxes that may be without their boxes or images. 100: go on."
        ),
    ] = 5,
) -> dict[str, Any]:
    """Write `annotations/instances_train.json` and `instances_val.json` from a dump of CVAT's.

    Their `file_name`s are absolute paths of existing images, their boxes lie within the upright image, and category
    ids are the dump's own where it has any. The two sets are disjoint, and the same for the same images and seed.
    Images without boxes stay, as negatives. What was kept, repaired and dropped is counted in `prepare_report.json`,
    which also names the dump and the settings and gives the `dataset_digest` of the two sets. Nothing outside
    `dataset_dir` is read or written.

    What an earlier run wrote is removed first, and `instances_train.json` comes last: wherever it lies, the rest
    belongs to it, and a run that is refused or killed leaves nothing that could be trained on by mistake.

    Returns:
        The content of `prepare_report.json`.

    Raises:
        StepError: an option is invalid; the dump has no readable annotations, no boxes or too few of its images, points
            outside its folder, or contradicts itself.
    """
    dataset_dir = Path(dataset_dir).absolute()
    if not 0 <= val_split <= 99:
        raise StepError(f"--val-split is {val_split}: give a percentage from 0 to 99")
    if split not in SPLITS:
        raise StepError(f"--split is '{printable(split)}': give one of {', '.join(SPLITS)}")
    if crowds not in CROWDS:
        raise StepError(f"--crowds is '{printable(crowds)}': give one of {', '.join(CROWDS)}")
    if frame_order not in FRAME_ORDERS:
        raise StepError(f"--frame-order is '{printable(frame_order)}': give one of {', '.join(FRAME_ORDERS)}")
    if not 0 <= max_lost <= 100:
        raise StepError(f"--max-lost is {max_lost}: give a percentage from 0 to 100")
    dump_format = check_tag(dump_format)
    if not dataset_dir.is_dir():
        raise StepError(f"--dataset-dir {dataset_dir} is not a folder: the fetch step makes it, run that first")

    rules = [rule for rule in map(str.strip, exclude.split(",")) if rule]
    dataset = Dataset(dataset_dir, Findings(), rules, crowds=crowds, frame_order=frame_order)
    with only_writer(dataset_dir, "prepare", LOCK), _collector_paused():
        return _prepare(dataset, dump_format, split, val_split, seed, max_lost)


def _prepare(
    dataset: Dataset, dump_format: str, split: Split, val_split: int, seed: int, max_lost: int
) -> dict[str, Any]:
    dataset_dir, findings = dataset.root, dataset.findings
    _remove_earlier(dataset_dir)
    refuse_ways_out(dataset_dir)
    there = image_files(dataset_dir)
    reader = read_dump(dataset, dump_format)
    if not dataset.names:
        raise StepError(f"{dataset} lists no images: dump a task that has some")
    _check_exclude(dataset)
    data = clean(dataset, find_images(dataset, there, max_lost))
    video = likely_video(data, dataset.video)
    train, val = split_images(data, split, val_split, seed, findings)

    digests = {"train": digest_of(data, train), "val": digest_of(data, val)}
    digest = dataset_digest(**digests)
    numbers = np.arange(1, len(data.boxes) + 1)

    def write(name: str, images: Sequence[int]) -> None:
        own = {"split_digest": digests[name], "dataset_digest": digest}
        with replacing(dataset_dir / PREPARED[name]) as temporary, temporary.open("wb") as file:
            file.writelines(coco_file(data, dataset_dir, images, numbers, own))

    report = {
        **_counts(data, train, val),
        "dump": dump_name(dataset_dir),
        "digest": digest,
        "dump_format": reader.TAG,
        "split": split,
        "settings": {
            "val_split": val_split,
            "seed": seed,
            "exclude": list(dataset.exclude),
            "crowds": dataset.crowds,
            "frame_order": dataset.frame_order,
            "max_lost": max_lost,
        },
        **findings.report(),
    }
    write("val", val)
    write_json(dataset_dir / REPORT, report)
    write("train", train)
    _log(report, findings)
    if video and split in ("auto", "stratified", "random") and not report["validated_on_training_set"]:
        log.warning(
            "WARNING: %s: a frame's neighbours in the validation set make the AP look better than it is; "
            "--split blocks (or folder, with a video in each) keeps them together",
            video,
        )
    return report


@contextmanager
def _collector_paused() -> Iterator[None]:
    """Keep Python from looking for cycles among millions of objects that have none: half of the time goes there."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _remove_earlier(dataset_dir: Path) -> None:
    """Remove what an earlier run wrote, and what a run that was killed was writing."""
    for folder in (dataset_dir, dataset_dir / "annotations"):
        if not folder.is_symlink():
            for path in folder.glob(".part-*"):
                path.unlink(missing_ok=True)
    for name in (*PREPARED.values(), REPORT):
        path = dataset_dir / name
        # A file of that name may also be the dump's own, and a link may lead to somebody else's.
        links = path.is_symlink() or path.parent.is_symlink()
        if path.is_file() and not links and (name == REPORT or is_ours(path)):
            path.unlink()


def _check_exclude(dataset: Dataset) -> None:
    names = {rule.partition("=")[0].strip() for rule in dataset.exclude}
    if absent := sorted(names - dataset.attributes_seen):
        seen = ", ".join(sorted(map(printable, dataset.attributes_seen))) or "none"
        log.warning(
            "WARNING: --exclude names %s, but no box has that attribute; there are: %s", ", ".join(absent), seen
        )


def _counts(data: Clean, train: Sequence[int], val: Sequence[int]) -> dict[str, Any]:
    """Count what is trained and validated on."""
    per_image = np.bincount(data.boxes.image, minlength=len(data.files))

    def per_class(images: Sequence[int]) -> list[int]:
        chosen = np.zeros(len(data.files), bool)
        chosen[images] = True
        categories = data.boxes.category[chosen[data.boxes.image]]
        return np.bincount(categories, minlength=len(data.categories)).tolist()

    in_train, in_val = per_class(train), per_class(val)
    index = {category.id: number for number, category in enumerate(data.categories)}
    return {
        "images": {"train": len(train), "val": len(val), "without_boxes": int((per_image == 0).sum())},
        "boxes": {"train": sum(in_train), "val": sum(in_val)},
        "classes": {
            each.name: {"train": in_train[index[each.id]], "val": in_val[index[each.id]]}
            for each in by_id(data.categories)
        },
        "validated_on_training_set": train == val,
    }


def _log(report: dict[str, Any], findings: Findings) -> None:
    images, boxes = report["images"], report["boxes"]
    log.info(
        "%d images and %d boxes to train on, %d and %d to validate on; %d images have no boxes",
        images["train"], boxes["train"], images["val"], boxes["val"], images["without_boxes"],
    )  # fmt: skip
    classes = report["classes"]
    if len(classes) > MOST_SHOWN:
        log.info("  the first %d of %d classes, the others are in %s:", MOST_SHOWN, len(classes), REPORT)
    for name, counts in islice(classes.items(), MOST_SHOWN):
        shown = printable(name)
        log.info("  class %s: %d boxes to train on, %d to validate on", shown, counts["train"], counts["val"])
        if not counts["train"]:
            log.warning("WARNING: class '%s' has no box in the training set: it cannot be learnt", shown)
        elif not counts["val"]:
            log.warning("WARNING: class '%s' has no box in the validation set: its AP cannot be measured", shown)
    for line in findings.lines():
        log.info("  %s", line)
