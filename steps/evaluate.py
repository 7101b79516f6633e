"""Evaluate the trained model on the validation images."""

import logging
from datetime import datetime, timezone
from pathlib import Path
from typing import Annotated, Any

import typer

from steps.common.errors import StepError
from steps.common.files import write_json
from steps.common.lock import only_writer
from steps.common.revision import revision
from steps.dataset.layout import check_prepared
from steps.options import BatchSize, DatasetDir, OutputDir
from steps.report import MISTAKES, TRAIN_PREDICTIONS, write_report
from trainer.data.fingerprint import file_digest

log = logging.getLogger(__name__)

HEADLINE = ("AP", "AP50")
"""What is shown of a run where there is room for two numbers."""

_LOCK = ".evaluate.lock"

_MOST_TRAINING_IMAGES = 1000
"""How many training images are looked at for mistakes in their annotations."""


def evaluate_model(
    dataset_dir: DatasetDir,
    output_dir: OutputDir,
    checkpoint: Annotated[str, typer.Option(help="Checkpoint to evaluate. Empty: the run's best.")] = "",
    batch_size: BatchSize = None,
    metrics_file: Annotated[
        str,
        typer.Option(help="Also write AP and AP50 to this file in the form that Onepanel reads. Empty: no."),
    ] = "",
    values_dir: Annotated[
        str,
        typer.Option(help="Also write AP and AP50 into files of these names in this folder, for Argo. Empty: no."),
    ] = "",
    run: Annotated[str, typer.Option(help="Name of the run, for the report.", show_default="the folder's")] = "",
) -> dict[str, Any]:
    """Write `metrics.json`, `predictions.json` (COCO results), `report.html` and `mistakes.csv` into `output_dir`.

    `mistakes.csv` has the annotations that the model disputes, of validation and training images;
    `predictions_train.json` is what it predicts on the latter.

    The run's own checkpoint is evaluated on the dataset that it was trained with and on no other; one that is named
    by `checkpoint` on whatever is there.

    Returns:
        The content of `metrics.json`: COCO's twelve numbers, `per_class` and `operating_points` (score, precision,
        recall and F1: `per_class`, `overall` under one threshold, `combined` under those of the classes). -1 is COCO's
        word for "none of that size here".

    Raises:
        StepError: the data is not prepared, or there is no checkpoint.
    """
    dataset_dir, output_dir = Path(dataset_dir), Path(output_dir)
    weights = Path(checkpoint) if checkpoint else output_dir / "checkpoints" / "best.pth"
    if not weights.is_file():
        raise StepError(f"{weights} is not there: train-detr makes it, run that first, or name another --checkpoint")
    check_prepared(dataset_dir)

    with only_writer(output_dir, "evaluate", _LOCK):
        metrics = _evaluate(dataset_dir, output_dir, weights, not checkpoint, batch_size, metrics_file, run)
    if values_dir:
        Path(values_dir).mkdir(parents=True, exist_ok=True)
        for name in HEADLINE:
            (Path(values_dir) / name).write_text(f"{metrics[name]:.4f}", encoding="utf-8")
    return metrics


def _evaluate(
    dataset_dir: Path,
    output_dir: Path,
    weights: Path,
    own: bool,
    batch_size: int | None,
    metrics_file: str,
    run: str,
) -> dict[str, Any]:
    # Kept out of the module: listing the steps, or fetching in a slim pod, needs no torch.
    from trainer.errors import TrainerError
    from trainer.evaluation.evaluate import evaluate

    try:
        result = evaluate(dataset_dir, weights, batch_size=batch_size, same_data=own)
        digest = file_digest(weights)
    except TrainerError as error:
        raise StepError(str(error)) from None
    metrics: dict[str, Any] = {
        **result.metrics,
        "per_class": result.per_class,
        "operating_points": result.operating_points.as_dict(),
        "images": result.images,
        "boxes": result.boxes,
        "seconds": result.seconds,
        "checkpoint": weights.name,
        "checkpoint_sha256": digest,
        "data": {"val": result.data, "trained_on": result.trained_on},
        "run": run or _run_of(output_dir),
        "evaluated": datetime.now(timezone.utc).isoformat(timespec="minutes"),
        "commit": revision(),
    }
    write_json(output_dir / "predictions.json", result.predictions, indent=False)
    _predict_on_training(dataset_dir, output_dir, weights, own, batch_size)
    write_json(output_dir / "metrics.json", metrics)
    report = write_report(dataset_dir, output_dir)
    if metrics_file:
        # Onepanel shows a value whose format is "%" (or empty) and leaves the cell blank for any other.
        headline = [{"name": name, "value": metrics[name], "format": "%"} for name in HEADLINE]
        write_json(Path(metrics_file), headline)
    log.info("AP %.3f, AP50 %.3f on %d images", metrics["AP"], metrics["AP50"], metrics["images"])
    for name, scores in result.per_class.items():
        log.info("  class %s: AP %.3f, AP50 %.3f, %d boxes", name, scores["AP"], scores["AP50"], scores["boxes"])
    log.info("%s %s", report.headline, report.found)
    if report.disputed:
        log.info("the model disputes %d annotations: see %s", report.disputed, output_dir / MISTAKES)
    for line in report.annotate_next:
        log.info("annotate next: %s", line)
    log.info("report: %s", report.path)
    return metrics


def _predict_on_training(dataset_dir: Path, output_dir: Path, weights: Path, own: bool, batch_size: int | None) -> None:
    """Leave predictions on training images, or none where they are the validation images too, or another run's."""
    from trainer.data.coco_dataset import read_coco
    from trainer.errors import TrainerError
    from trainer.evaluation.evaluate import predict_some

    target = output_dir / TRAIN_PREDICTIONS
    target.unlink(missing_ok=True)
    train, val = (dataset_dir / "annotations" / f"instances_{split}.json" for split in ("train", "val"))
    if not own or not train.is_file():
        return
    try:
        files = [{image["file_name"] for image in read_coco(path)["images"]} for path in (train, val)]
        if files[0] == files[1]:
            return
        found, images = predict_some(
            dataset_dir, weights, split="train", most=_MOST_TRAINING_IMAGES, batch_size=batch_size
        )
    except TrainerError as error:
        raise StepError(str(error)) from None
    log.info("looked at %d of %d training images for mistakes in their annotations", images, len(files[0]))
    write_json(target, found, indent=False)


def _run_of(output_dir: Path) -> str:
    """The name of a run's folder, which holds `output`."""
    folder = output_dir.absolute()
    return folder.parent.name if folder.name == "output" else folder.name
