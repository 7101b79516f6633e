"""Predict on images in a folder, a zip or a video, and write files for CVAT and others."""

import logging
import shutil
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer

from steps.common.errors import StepError
from steps.common.files import replacing
from steps.common.lock import only_writer
from steps.common.messages import printable
from steps.common.progress import progress
from steps.options import Bucket, Endpoint, Namespace, Region
from steps.predictions.coco import write_image_info, write_instances, write_results
from steps.predictions.cvat_xml import write_images
from steps.predictions.predicted import UNWRITABLE, Predictions
from steps.predictions.table import write_table

log = logging.getLogger(__name__)

FILES: dict[str, dict[str, Callable[[Predictions, Path], None]]] = {
    "cvat": {"cvat_images.zip": write_images},
    "coco": {"cvat_coco.zip": write_instances},
    "csv": {"predictions.csv": write_table},
    "results": {"coco_results.json": write_results, "image_info.json": write_image_info},
}
"""What `--write` takes, beside `PICTURES`: the files of each, and who writes them."""
PICTURES = "pictures"
_LOCK = ".predict.lock"
_SCRATCH = ".unpacked"


def predict_images(
    checkpoint: Annotated[
        str, typer.Option(help="The model: a checkpoint, a run's folder, an address or a key in the bucket.")
    ],
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
    namespace: Namespace = "",
    bucket: Bucket = "",
    endpoint: Endpoint = "",
    region: Region = "",
) -> list[Path]:
    """Write a model's predictions on images as files.

    Images that cannot be read are named at the end, and the others have their predictions. All files are replaced at
    once when the last image is done; pictures are written one by one.

    Returns:
        The files, and the folder of pictures.

    Raises:
        StepError: there is no such checkpoint, there are no images, or none of them can be read.
    """
    wanted = {name.strip() for name in write.split(",")}
    if not wanted <= {*FILES, PICTURES}:
        raise StepError(f"--write '{write}': give some of {', '.join((*FILES, PICTURES))}, with commas")
    # Kept out of the module: torch is not wanted for listing the steps.
    from steps.checkpoint import load
    from steps.predictions.detect import detect
    from steps.predictions.drawing import picture_path, write_picture
    from steps.predictions.media import open_media
    from steps.predictions.video import Frames

    output = Path(output)
    with only_writer(output, "predict", _LOCK), ExitStack() as at_the_end:
        at_the_end.callback(shutil.rmtree, output / _SCRATCH, ignore_errors=True)
        media = open_media(images, output, output / _SCRATCH, Frames(start_frame, stop_frame, frame_step))
        detector = load(checkpoint.strip(), namespace=namespace, bucket=bucket, endpoint=endpoint, region=region)
        class_names = [UNWRITABLE.sub("\ufffd", name) for name in detector.class_names]
        predictions = Predictions(class_names, detector.category_ids)
        with progress("predicting", media.count, unit="images") as advance:
            for seen in detect(detector, media.pictures, threshold):
                predictions.images.append(seen.predicted)
                if PICTURES in wanted:
                    target = output / PICTURES / picture_path(seen.predicted)
                    write_picture(seen.picture.image, seen.predicted, class_names, target)
                advance(1)
        if not predictions.images:
            raise StepError(f"--images {images}: there is no image that can be read{_first(media.skipped)}")
        files = _write(predictions, wanted, output)
    for path in files:
        log.info("wrote %s", path)
    log.info("%d boxes on %d images", predictions.boxes, len(predictions.images))
    if media.skipped:
        log.warning("WARNING: there are no predictions for %d of %d images:", len(media.skipped), media.count)
    for name, reason in media.skipped.items():
        log.warning("  %s: %s", printable(name), reason)
    return files


def _first(skipped: dict[str, str]) -> str:
    return next((f": {printable(name)}, {reason}" for name, reason in skipped.items()), "")


def _write(predictions: Predictions, wanted: set[str], output: Path) -> list[Path]:
    """Write what is wanted, all of it or nothing; give the paths."""
    writers = {output / name: write for kind in FILES if kind in wanted for name, write in FILES[kind].items()}
    with ExitStack() as whole:
        for path, write in writers.items():
            write(predictions, whole.enter_context(replacing(path)))
    return [*writers, *([output / PICTURES] if PICTURES in wanted else [])]
