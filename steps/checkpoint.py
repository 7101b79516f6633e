"""A trained model, wherever it lies: on this machine or in a bucket."""

from __future__ import annotations

import logging
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from steps.common.errors import StepError
from steps.storage.address import candidate_keys, has_scheme
from steps.storage.config import StorageConfig
from steps.storage.store import open_storage

if TYPE_CHECKING:
    from trainer.evaluation.detector import Detector

log = logging.getLogger(__name__)


def load(
    path: str | Path,
    device: str = "auto",
    *,
    namespace: str = "",
    bucket: str = "",
    endpoint: str = "",
    region: str = "",
) -> Detector:
    """Open a trained model, ready for `predict`.

    Args:
        path: of a checkpoint or of a run's folder: on this machine, an address such as s3://bucket/run, or a key in
            the configured bucket.
        device: where to compute, as for training.
        namespace: of the workflow that made it.
        bucket: as for the steps.
        endpoint: as for the steps.
        region: as for the steps.

    Raises:
        StepError: there is no model, it is damaged, or the storage refuses.
    """
    from trainer.errors import TrainerError
    from trainer.evaluation.detector import load as open_checkpoint

    with tempfile.TemporaryDirectory() as folder:
        config = StorageConfig.resolve(bucket=bucket, endpoint=endpoint, region=region)
        file = bring_checkpoint(str(path), namespace, config, Path(folder))
        try:
            return open_checkpoint(file, device)
        except TrainerError as error:
            raise StepError(str(error)) from None


def bring_checkpoint(path: str, namespace: str, config: StorageConfig, folder: Path) -> Path:
    """Give a local file for a checkpoint.

    Args:
        path: of a file or of a run's folder: on this machine, an address, or a key in the bucket.
        namespace: of the workflow; see `candidate_keys`.
        config: the bucket and who we are there.
        folder: below which what lies in a bucket is kept.

    Raises:
        StepError: there is none, or the storage refuses.
    """
    # Kept out of the module: listing the steps, or fetching in a slim pod, needs no torch.
    from trainer.checkpoint import PLACES, find_checkpoint

    local = Path(os.path.expanduser(path))
    if not has_scheme(path) and (local.exists() or not config.bucket):
        if found_here := find_checkpoint(local):
            return found_here
        raise StepError(f"checkpoint {local}: that is neither a checkpoint nor the folder of a run that made one")
    storage, key = open_storage(path, config)
    prefixes = candidate_keys(path, key, namespace)
    for prefix in prefixes:
        # CVAT's form offers folders of earlier runs as well as files.
        for candidate in (f"{prefix}/{place}".rstrip("/") for place in PLACES):
            if found := storage.head(candidate):
                target = folder / "checkpoint" / Path(candidate).name
                target.parent.mkdir(parents=True, exist_ok=True)
                storage.download([(found, target)], folder / "unfinished")
                log.info("starting from the checkpoint %s/%s", storage.url, candidate)
                return target
    tried = " nor ".join(f"{storage.url}/{prefix}" for prefix in prefixes)
    raise StepError(f"checkpoint {path}: neither {tried} is a checkpoint or the folder of a run that made one")
