"""Make the new model the latest of its series, unless the one that is there is better."""

import logging
import tempfile
from pathlib import Path

from steps.common.files import read_json
from steps.dump.series import LATEST, LastRun, version_in, write_last_run
from steps.options import BatchSize, Bucket, DatasetDir, Endpoint, OutputDir, Region, RunName, Series
from steps.storage.config import StorageConfig
from steps.storage.store import Storage, open_storage
from steps.upload import MANIFEST, upload_artifacts

log = logging.getLogger(__name__)


def promote_model(
    dataset_dir: DatasetDir,
    output_dir: OutputDir,
    series: Series,
    run: RunName = "",
    batch_size: BatchSize = None,
    bucket: Bucket = "",
    endpoint: Endpoint = "",
    region: Region = "",
) -> bool:
    """Replace `latest` of a series by the run in `output_dir` if that is no worse.

    Both models are measured by AP on the validation images of this run. Some of them may have trained the older one,
    if its dump was divided in another way: that makes the older one look better, never worse.

    Returns:
        Whether the model was replaced.

    Raises:
        StepError: the run was not evaluated, or the storage refuses.
    """
    dataset_dir, output_dir = Path(dataset_dir), Path(output_dir)
    metrics = read_json(output_dir / "metrics.json", "evaluation")
    storage, prefix = open_storage(series, StorageConfig.resolve(bucket=bucket, endpoint=endpoint, region=region))
    with tempfile.TemporaryDirectory() as folder:
        standing = _measure_latest(storage, f"{prefix}/{LATEST}", dataset_dir, batch_size, Path(folder))
        better = standing is None or metrics["AP"] >= standing
        if better:
            # A prefix in the same bucket, or an address of its own.
            upload_artifacts(output_dir, f"{series.rstrip('/')}/{LATEST}", bucket, endpoint, region)
        write_last_run(LastRun(run, version_in(dataset_dir), better), storage, prefix, Path(folder))
    if standing is None:
        log.info("AP %.3f: the first model of %s/%s", metrics["AP"], storage.url, prefix)
    else:
        log.info(
            "AP %.3f against %.3f of the latest model on the same images: %s/%s/%s %s",
            metrics["AP"], standing, storage.url, prefix, LATEST, "is replaced" if better else "stays",
        )  # fmt: skip
    return better


def _measure_latest(
    storage: Storage, latest: str, dataset_dir: Path, batch_size: int | None, folder: Path
) -> float | None:
    """Give the AP of the model that is there now; None where there is none that can be measured."""
    weights = storage.head(f"{latest}/checkpoints/best.pth")
    if weights is None or storage.head(f"{latest}/{MANIFEST}") is None:
        return None

    # Kept out of the module: listing the steps, or fetching in a slim pod, needs no torch.
    from trainer.errors import TrainerError
    from trainer.evaluation.evaluate import evaluate

    storage.download([(weights, folder / "best.pth")], folder / "unfinished")
    try:
        return evaluate(dataset_dir, folder / "best.pth", batch_size=batch_size).metrics["AP"]
    except TrainerError as error:
        # Classes that it does not know, above all: a model that cannot be measured cannot be kept for being better.
        log.warning("WARNING: the latest model cannot be measured on these images: %s", error)
        return None
