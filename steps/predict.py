"""Predict on images in a folder, a zip or a video, and write files for CVAT and others."""

import logging
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated

import typer

from steps.common.errors import StepError
from steps.common.files import replacing
from steps.common.lock import only_writer
from steps.common.messages import printable
from steps.common.progress import progress
from steps.cvat.address import SERVER_EXAMPLE, parse_server
from steps.cvat.server import Server
from steps.options import Bucket, Endpoint, Namespace, Region, TrainedModel
from steps.predictions.coco import write_image_info, write_instances, write_results
from steps.predictions.cvat_xml import write_images
from steps.predictions.predicted import UNWRITABLE, Predictions
from steps.predictions.table import write_table

if TYPE_CHECKING:
    from steps.cvat.new_task import NewTask
    from steps.predictions.media import Media
    from steps.predictions.shortlist import Shortlist
    from trainer import Detector

log = logging.getLogger(__name__)

FILES: dict[str, dict[str, Callable[[Predictions, Path], None]]] = {
    "cvat": {"cvat_images.zip": write_images},
    "coco": {"cvat_coco.zip": write_instances},
    "csv": {"predictions.csv": write_table},
    "results": {"coco_results.json": write_results, "image_info.json": write_image_info},
}
"""What `--write` takes, beside `PICTURES`: the files of each, and who writes them."""
PICTURES = "pictures"
NEXT, NEXT_NAMES = "next.csv", "next.txt"
_LOCK = ".predict.lock"
_SCRATCH = ".unpacked"


def predict_images(
    checkpoint: TrainedModel,
    images: Annotated[str, typer.Option(help="What to predict on: a folder of images, a zip, a video or an image.")],
    output: Annotated[Path, typer.Option(help="Folder for the files.")],
    threshold: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Score from which a prediction counts.", show_default="the best of each class"),
    ] = None,
    write: Annotated[
        str,
        typer.Option(
            help="What to write, with commas: cvat (XML) and coco are zips that CVAT imports, csv is a table, results"
            " is COCO's format of results, pictures are the images with the boxes drawn."
        ),
    ] = ",".join(FILES),
    start_frame: Annotated[int, typer.Option(min=0, help="First frame of a video, as in the task's settings.")] = 0,
    stop_frame: Annotated[
        int | None, typer.Option(min=0, help="Last frame of a video, likewise.", show_default="the video's")
    ] = None,
    frame_step: Annotated[int, typer.Option(min=1, help="Take every N-th frame of a video, likewise.")] = 1,
    next: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Choose so many images to annotate next, those of which the model is least sure and that differ from"
            " one another: best first in next.csv and next.txt.",
        ),
    ] = None,
    open_task: Annotated[
        str, typer.Option(help=f"Make a task of these images on a CVAT server: {SERVER_EXAMPLE}.")
    ] = "",
    task_name: Annotated[str, typer.Option(help="Name of that task.", show_default="after --images")] = "",
    with_predictions: Annotated[
        bool, typer.Option("--with-predictions", help="Write the predictions into that task, to be corrected there.")
    ] = False,
    namespace: Namespace = "",
    bucket: Bucket = "",
    endpoint: Endpoint = "",
    region: Region = "",
) -> list[Path]:
    """Write a model's predictions on images as files.

    Images that cannot be read are named at the end, and the others have their predictions. All files are replaced at
    once when the last image is done; pictures are written one by one. Images that a prepared dataset has boxes for are
    not chosen to be annotated next.

    Returns:
        The files, and the folder of pictures.

    Raises:
        StepError: there is no such checkpoint, there are no images, or none of them can be read; or the CVAT server
            would not have the task, of which nothing is left there then.
        TemporaryError: the CVAT server cannot be reached, or fails.
    """
    wanted = {name.strip() for name in write.split(",")}
    if not wanted <= {*FILES, PICTURES}:
        raise StepError(f"--write '{write}': give some of {', '.join((*FILES, PICTURES))}, with commas")
    if next is None and (open_task or task_name or with_predictions):
        raise StepError("--open-task makes a task of the images that --next chooses: give both")
    if not open_task and (task_name or with_predictions):
        raise StepError("--task-name and --with-predictions are about the task that --open-task makes: give it as well")
    place = parse_server(open_task) if open_task else None
    # Kept out of the module: torch is not wanted for listing the steps.
    from steps.checkpoint import load
    from steps.predictions.detect import detect
    from steps.predictions.drawing import picture_path, write_picture
    from steps.predictions.media import open_media
    from steps.predictions.shortlist import Shortlist
    from steps.predictions.video import Frames

    output = Path(output)
    with only_writer(output, "predict", _LOCK), ExitStack() as at_the_end:
        at_the_end.callback(shutil.rmtree, output / _SCRATCH, ignore_errors=True)
        frames = Frames(start_frame, stop_frame, frame_step)
        media = open_media(images, output, output / _SCRATCH, frames)
        detector = load(checkpoint.strip(), namespace=namespace, bucket=bucket, endpoint=endpoint, region=region)
        class_names = [UNWRITABLE.sub("\ufffd", name) for name in detector.class_names]
        predictions = Predictions(class_names, detector.category_ids)
        by_label = detector.thresholds if threshold is None else [threshold] * len(class_names)
        shortlist = Shortlist(next, by_label, class_names, Path(images)) if next else None
        task = at_the_end.enter_context(_planned(place, task_name or f"next of {images}", detector)) if place else None
        with progress("predicting", media.count, unit="images") as advance:
            for seen in detect(detector, media.pictures, threshold, features=shortlist is not None):
                predictions.images.append(seen.predicted)
                if shortlist:
                    shortlist.add(seen)
                if PICTURES in wanted:
                    target = output / PICTURES / picture_path(seen.predicted)
                    write_picture(seen.picture.image, seen.predicted, class_names, target)
                advance(1)
        if not predictions.images:
            raise StepError(f"--images {images}: there is no image that can be read{_first(media.skipped)}")
        files = _write(predictions, wanted, output, shortlist)
        chosen = shortlist.chosen if shortlist else {}
        address = ""
        if task and chosen:
            again = media if media.files else open_media(images, output, output / _SCRATCH, frames)
            address = _make_task(task, list(chosen), again, detector, threshold, with_predictions, output)
    for path in files:
        log.info("wrote %s", path)
    log.info("%d boxes on %d images", predictions.boxes, len(predictions.images))
    if media.skipped:
        log.warning("WARNING: there are no predictions for %d of %d images:", len(media.skipped), media.count)
    for name, reason in media.skipped.items():
        log.warning("  %s: %s", printable(name), reason)
    if shortlist and shortlist.annotated:
        log.info("%d images have annotations already and are not among those to annotate next", shortlist.annotated)
    if shortlist and not chosen:
        log.warning("WARNING: all images have annotations: there is none to annotate next")
    if address:
        log.info("a task of the %d images to annotate next: %s", len(chosen), address)
    return files


def _first(skipped: dict[str, str]) -> str:
    return next((f": {printable(name)}, {reason}" for name, reason in skipped.items()), "")


def _write(predictions: Predictions, wanted: set[str], output: Path, shortlist: "Shortlist | None") -> list[Path]:
    """Write what is wanted, all of it or nothing; give the paths."""
    writers: dict[Path, Callable[[Path], None]] = {
        output / name: partial(write, predictions)
        for kind in FILES
        if kind in wanted
        for name, write in FILES[kind].items()
    }
    if shortlist:
        writers |= {output / NEXT: shortlist.write_table, output / NEXT_NAMES: shortlist.write_names}
    with ExitStack() as whole:
        for path, write in writers.items():
            write(whole.enter_context(replacing(path)))
    return [*writers, *([output / PICTURES] if PICTURES in wanted else [])]


@contextmanager
def _planned(place: tuple[str, int | None], name: str, detector: "Detector") -> Iterator["NewTask"]:
    """Log in, and ask for what the task needs, before anything is predicted."""
    host, project = place
    # What the SDK keeps is of this task, and of no use afterwards.
    with TemporaryDirectory(prefix="cvat-") as folder, Server(host, cache_dir=Path(folder)) as server:
        # Kept out of the module: where there is no SDK, the line above has said so.
        from steps.cvat.new_task import plan

        yield plan(server, name, project, detector.class_names)


def _make_task(
    task: "NewTask",
    names: list[str],
    media: "Media",
    detector: "Detector",
    threshold: float | None,
    with_predictions: bool,
    output: Path,
) -> str:
    """Make the task of the chosen images, with predictions if wanted; give its address."""
    from steps.cvat.new_task import open_task, pre_annotate
    from steps.predictions.shortlist import files_of

    with TemporaryDirectory(prefix="frames-") as folder:
        try:
            number = open_task(task, files_of(names, media, Path(folder)))
        except StepError as error:
            raise type(error)(f"{error}; the images to annotate next are in {output / NEXT}") from None
    address = f"{task.server.host}/tasks/{number}"
    if with_predictions:
        try:
            pre_annotate(task, number, detector, threshold)
        except StepError as error:
            raise type(error)(f"{error}; {address} has its images, and 'annotate' can predict on them") from None
    return address
