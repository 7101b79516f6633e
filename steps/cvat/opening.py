"""The model that a user names."""

from pathlib import Path

from steps.common.errors import StepError
from trainer import Detector, TrainerError, load
from trainer.checkpoint import find_checkpoint


def open_checkpoint(checkpoint: str, device: str = "auto") -> tuple[Path, Detector]:
    """Open a checkpoint's file, or that in a run's folder, and give its path as well.

    Raises:
        StepError: there is none, or it cannot be read.
    """
    path = find_checkpoint(checkpoint)
    if path is None:
        raise StepError(f"--checkpoint {checkpoint} is neither a checkpoint nor the folder of a run that made one")
    try:
        return path, load(path, device)
    except TrainerError as error:
        raise StepError(str(error)) from None
