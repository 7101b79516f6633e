"""Train a detector on the prepared data."""

import hashlib
import logging
from pathlib import Path, PurePosixPath
from typing import Any

from steps.common.errors import StepError
from steps.common.lock import refusal
from steps.dataset.layout import check_prepared
from steps.hyperparameters import check_settings, parse_hyperparameters
from steps.options import (
    BatchSize,
    Bucket,
    Checkpoint,
    DatasetDir,
    Endpoint,
    Epochs,
    Hyperparameters,
    Model,
    Namespace,
    OutputDir,
    Region,
    Seed,
)
from steps.storage.address import candidate_keys, has_scheme
from steps.storage.config import StorageConfig
from steps.storage.store import open_storage
from trainer.models.choice import AUTO
from trainer.models.hf.settings import PREFIX

log = logging.getLogger(__name__)

_START = ".start"
"""Folder in the run's for what it starts from: trainings that share a dataset may start from different weights."""


def train_model(
    dataset_dir: DatasetDir,
    output_dir: OutputDir,
    model: Model = AUTO,
    epochs: Epochs = None,
    batch_size: BatchSize = None,
    hyperparameters: Hyperparameters = "",
    checkpoint: Checkpoint = "",
    seed: Seed = 0,
    namespace: Namespace = "",
    bucket: Bucket = "",
    endpoint: Endpoint = "",
    region: Region = "",
) -> dict[str, Any]:
    """Train, and leave `checkpoints/best.pth`, `checkpoints/last.pth`, `log.jsonl` and `train.json` in `output_dir`.

    A run that was cut off resumes from `last.pth` when called with the same arguments.

    Returns:
        The content of `train.json`.

    Raises:
        StepError: a setting is unknown or out of range, the data is not prepared, the checkpoint is not there,
            or the loss is not finite.
    """
    # Kept out of the module: listing the steps, or fetching in a slim pod, needs no torch.
    from trainer.config import TrainConfig
    from trainer.errors import TrainerError

    dataset_dir, output_dir = Path(dataset_dir), Path(output_dir)
    overrides = parse_hyperparameters(hyperparameters)

    def configure() -> TrainConfig:
        try:
            return TrainConfig.create(
                overrides,
                dataset_dir=dataset_dir,
                output_dir=output_dir,
                model=model,
                epochs=epochs,
                batch_size=batch_size,
                seed=seed,
            )
        except TrainerError as error:
            raise StepError(str(error)) from None

    # Before anything is downloaded: a misspelt setting should not have to wait for it. Which settings there are is
    # known once the model is, though, and that may be the checkpoint's.
    config = None
    if checkpoint.strip() and model == AUTO:
        check_settings(model, epochs, batch_size, hyperparameters, checkpoint)
    else:
        config = configure()
    check_prepared(dataset_dir)
    published = model.removeprefix(PREFIX)
    if model != published and has_scheme(published):
        storage = StorageConfig.resolve(bucket=bucket, endpoint=endpoint, region=region)
        model = f"{PREFIX}{_bring_model(published, storage, output_dir)}"
        config = configure()
    if checkpoint.strip():
        storage = StorageConfig.resolve(bucket=bucket, endpoint=endpoint, region=region)
        overrides["pretrained"] = str(_bring_checkpoint(checkpoint.strip(), namespace, storage, output_dir))
        # Anew rather than changed: the backbone's rate follows from where the weights come from.
        config = configure()
    assert config is not None

    from trainer.training.train import train

    try:
        return train(config).summary
    except TrainerError as error:
        raise refusal(error) from None


def _bring_model(address: str, config: StorageConfig, output_dir: Path) -> Path:
    """Download the folder of a published model; give it as one on this machine, at the same place in every attempt."""
    storage, key = open_storage(address, config)
    objects = {remote.key.removeprefix(key).lstrip("/"): remote for remote in storage.list(key)}
    if "config.json" not in objects:
        raise StepError(f"--model {PREFIX}{address} has no config.json: give the folder that save_pretrained wrote")
    # By its address, since the model's name is what tells a run of another model.
    digest = hashlib.sha256(f"{storage.url}/{key}".encode()).hexdigest()
    folder = output_dir / _START / f"{PurePosixPath(key).name or 'model'}-{digest[:12]}"
    folder.mkdir(parents=True, exist_ok=True)
    # A run's folder may hold more, below or beside; what a model is read from lies directly in it.
    wanted = [(remote, folder / name) for name, remote in objects.items() if "/" not in name]
    storage.download(wanted, output_dir / _START / "unfinished")
    log.info("starting from the model %s/%s", storage.url, key)
    return folder


def _bring_checkpoint(path: str, namespace: str, config: StorageConfig, output_dir: Path) -> Path:
    """Give a local file for a checkpoint named as a file, a folder, an address, or a key in the bucket."""
    from trainer.checkpoint import PLACES, find_checkpoint

    local = Path(path).expanduser()
    if not has_scheme(path) and (local.exists() or not config.bucket):
        if found_here := find_checkpoint(local):
            return found_here
        raise StepError(f"--checkpoint {local} is neither a checkpoint nor the folder of a run that made one")
    storage, key = open_storage(path, config)
    prefixes = candidate_keys(path, key, namespace)
    for prefix in prefixes:
        # CVAT's form offers folders of earlier runs as well as files.
        for candidate in (f"{prefix}/{place}".rstrip("/") for place in PLACES):
            if found := storage.head(candidate):
                target = output_dir / _START / "checkpoint" / Path(candidate).name
                target.parent.mkdir(parents=True, exist_ok=True)
                storage.download([(found, target)], output_dir / _START / "unfinished")
                log.info("starting from the checkpoint %s/%s", storage.url, candidate)
                return target
    tried = " nor ".join(f"{storage.url}/{prefix}" for prefix in prefixes)
    raise StepError(f"--checkpoint: neither {tried} is a checkpoint or the folder of a run that made one")
