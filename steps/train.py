"""Train a detector on the prepared data."""

import logging
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from steps.checkpoint import bring_checkpoint
from steps.common.errors import StepError
from steps.dump.target import STATE_DIR
from steps.options import BatchSize, Bucket, DatasetDir, Endpoint, Epochs, Model, Namespace, OutputDir, Region, Seed
from steps.storage.address import has_scheme
from steps.storage.config import StorageConfig
from steps.storage.store import open_storage
from trainer.models.choice import AUTO
from trainer.models.hf.settings import PREFIX

log = logging.getLogger(__name__)


def train_model(
    dataset_dir: DatasetDir,
    output_dir: OutputDir,
    model: Model = AUTO,
    epochs: Epochs = None,
    batch_size: BatchSize = None,
    hyperparameters: Annotated[
        str, typer.Option(help="More settings as YAML, one 'name: value' a line, such as 'lr: 0.0002'.")
    ] = "",
    checkpoint: Annotated[
        str,
        typer.Option(help="Checkpoint to start from: a key in the bucket, an address or a file. Empty: none."),
    ] = "",
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
    overrides = _parse_hyperparameters(hyperparameters)

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

    # Before anything is downloaded: a misspelt setting should not have to wait for it.
    config = configure()
    prepared = dataset_dir / "annotations" / "instances_train.json"
    if not prepared.is_file():
        raise StepError(f"{prepared} is not there: prepare-data makes it, run that first")
    published = model.removeprefix(PREFIX)
    if model != published and has_scheme(published):
        storage = StorageConfig.resolve(bucket=bucket, endpoint=endpoint, region=region)
        model = f"{PREFIX}{_bring_model(published, storage, dataset_dir)}"
        config = configure()
    if checkpoint.strip():
        storage = StorageConfig.resolve(bucket=bucket, endpoint=endpoint, region=region)
        overrides["pretrained"] = str(bring_checkpoint(checkpoint.strip(), namespace, storage, dataset_dir))
        # Anew rather than changed: the backbone's rate follows from where the weights come from.
        config = configure()

    from trainer.training.train import train

    try:
        return train(config).summary
    except TrainerError as error:
        raise StepError(str(error)) from None


def _parse_hyperparameters(text: str) -> dict[str, Any]:
    try:
        settings = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise StepError(f"--hyperparameters is not readable YAML: {' '.join(str(error).split())}") from None
    if settings is None:
        return {}
    if not isinstance(settings, dict):
        raise StepError(f"--hyperparameters is {text.strip()[:60]!r}: write one 'name: value' a line")
    return {str(name): value for name, value in settings.items()}


def _bring_model(address: str, config: StorageConfig, dataset_dir: Path) -> Path:
    """Download the folder of a published model; give it as one on this machine, at the same place in every attempt."""
    storage, key = open_storage(address, config)
    objects = {remote.key.removeprefix(key).lstrip("/"): remote for remote in storage.list(key)}
    if "config.json" not in objects:
        raise StepError(f"--model {PREFIX}{address} has no config.json: give the folder that save_pretrained wrote")
    folder = dataset_dir / STATE_DIR / "model"
    folder.mkdir(parents=True, exist_ok=True)
    # A run's folder may hold more, below or beside; what a model is read from lies directly in it.
    wanted = [(remote, folder / name) for name, remote in objects.items() if "/" not in name]
    storage.download(wanted, dataset_dir / STATE_DIR / "unfinished")
    log.info("starting from the model %s/%s", storage.url, key)
    return folder
