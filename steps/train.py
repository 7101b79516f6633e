"""Train a detector on the prepared data."""

import hashlib
import logging
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from steps.checkpoint import bring_checkpoint
from steps.common.errors import StepError
from steps.common.files import read_json
from steps.common.lock import refusal
from steps.dataset.layout import check_prepared
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
    Processes,
    Region,
    Seed,
)
from steps.settings import check_settings, parse_hyperparameters
from steps.storage.address import has_scheme
from steps.storage.config import StorageConfig
from steps.storage.store import open_storage
from trainer.models.choice import AUTO
from trainer.models.hf.family import PREFIX

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
    processes: Processes = None,
    namespace: Namespace = "",
    bucket: Bucket = "",
    endpoint: Endpoint = "",
    region: Region = "",
) -> dict[str, Any]:
    """Train, and leave `checkpoints/best.pth`, `checkpoints/last.pth`, `log.jsonl` and `train.json` in `output_dir`.

    A run that was cut off resumes from `last.pth` when called with the same arguments. Where several `processes` train
    together, each gets its part of the images, and the batch size is that of one.

    Returns:
        The content of `train.json`.

    Raises:
        StepError: a setting is unknown or out of range, the data is not prepared, the checkpoint is not there,
            or the loss is not finite.
        SystemExit: with 143 after SIGTERM; with the exit status of the process that failed where there are several.
    """
    arguments = {name: value for name, value in locals().items() if name != "processes"}
    # Kept out of the module: listing the steps, or fetching in a slim pod, needs no torch.
    from trainer.config import TrainConfig
    from trainer.errors import TrainerError

    dataset_dir, output_dir = Path(dataset_dir), Path(output_dir)
    overrides = parse_hyperparameters(hyperparameters)
    check_prepared(dataset_dir)

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
            raise refusal(error) from None

    # Before anything is downloaded: a misspelt setting should not have to wait for it. Which settings there are is
    # known once the model is, though, and that may be the checkpoint's.
    config = None
    if checkpoint.strip() and model == AUTO:
        check_settings(model, epochs, batch_size, hyperparameters, checkpoint)
    else:
        config = configure()
    published = model.removeprefix(PREFIX)
    if model != published and has_scheme(published):
        storage = StorageConfig.resolve(bucket=bucket, endpoint=endpoint, region=region)
        model = f"{PREFIX}{_bring_model(published, storage, output_dir)}"
        config = configure()
    if checkpoint.strip():
        storage = StorageConfig.resolve(bucket=bucket, endpoint=endpoint, region=region)
        overrides["pretrained"] = str(bring_checkpoint(checkpoint.strip(), namespace, storage, output_dir / _START))
        # Anew rather than changed: the backbone's rate follows from where the weights come from.
        config = configure()
    assert config is not None

    from trainer.training.launch import launch, launched, nodes, processes_here

    if not launched() and (nodes() > 1 or processes_here(processes) > 1):
        # What was brought from the bucket is brought once.
        arguments |= {"model": model, "checkpoint": overrides.get("pretrained") if checkpoint.strip() else ""}
        if status := launch("steps", ["train", *_flags(arguments)], processes_here(processes)):
            raise SystemExit(status)
        summary: dict[str, Any] = read_json(output_dir / "train.json", "training")
        return summary

    from trainer.training.train import train

    try:
        return train(config).summary
    except TrainerError as error:
        raise refusal(error) from None


def _flags(arguments: Mapping[str, Any]) -> list[str]:
    """Give the command line of arguments of a step; None is what it decides by itself."""
    given = {name.replace("_", "-"): value for name, value in arguments.items() if value is not None}
    return [word for name, value in given.items() for word in (f"--{name}", str(value))]


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
