"""Annotate tasks of a CVAT server with a trained model's predictions."""

import logging
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from steps.checkpoint import load
from steps.common.errors import StepError
from steps.cvat.address import EXAMPLE, parse
from steps.cvat.export import parts
from steps.cvat.server import Server
from steps.options import Bucket, Endpoint, Namespace, Region, TrainedModel, choice

log = logging.getLogger(__name__)


def annotate_tasks(
    checkpoint: TrainedModel,
    to: Annotated[
        str, typer.Option(help="Tasks, projects or jobs of a CVAT server, with commas, as in fetch. Empty: none.")
    ],
    threshold: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Score from which a prediction counts.", show_default="the best of each class"),
    ] = None,
    unmatched_labels: Annotated[
        str, choice(("fail", "skip"), help="What to do when the task has no label of a class's name.")
    ] = "fail",
    replace: Annotated[
        bool,
        typer.Option("--replace", help="Replace what an earlier run wrote. What people drew or corrected stays."),
    ] = False,
    namespace: Namespace = "",
    bucket: Bucket = "",
    endpoint: Endpoint = "",
    region: Region = "",
) -> dict[str, int]:
    """Write predictions as rectangles into the frames that have no annotations yet, so that people only correct them.

    A second run adds nothing, unless there are frames that the first gave none. Labels are matched by name before
    anything is predicted; a task's rectangles go in all at once or not at all.

    Returns:
        How many rectangles were written into each task or job, by its folder's name in a fetched dataset.

    Raises:
        StepError: there is no such checkpoint or task, labels do not match, or the server refuses.
        TemporaryError: the server cannot be reached, or fails.
    """
    if not to.strip():
        log.info("no task is named: nothing to annotate")
        return {}
    places = parse(to)
    if not places:
        raise StepError(f"--to '{to}' is not a task of a CVAT server: give its address, as in {EXAMPLE}")
    detector = load(checkpoint.strip(), namespace=namespace, bucket=bucket, endpoint=endpoint, region=region)
    # Chunks of images go to a folder of their own: kept, they would fill the disk, and a change makes them stale.
    with (
        tempfile.TemporaryDirectory(prefix="cvat-") as folder,
        Server(places[0].host, cache_dir=Path(folder)) as server,
    ):
        # Kept out of the module: torch is not wanted for listing the steps, nor is the SDK where there is none.
        from steps.cvat.function import DetectorFunction
        from steps.cvat.predictions import annotate, matched

        found = [
            (part, matched(server, "task", part.task["id"], detector.class_names, unmatched_labels))
            for part in parts(server, places, "any")
        ]
        return {
            part.folder: annotate(server, part, DetectorFunction(detector, threshold, labels), replace=replace)
            for part, labels in found
        }
