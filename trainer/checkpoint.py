"""Checkpoint files: tensors and plain containers, written so that a kill leaves the old file or the new."""

from __future__ import annotations

import argparse
import os
import pickle
from pathlib import Path
from typing import Any

import torch

from trainer.errors import TrainerError


def save(path: Path, content: dict[str, Any]) -> None:
    """Writes a checkpoint under a temporary name, flushes it to the disk and renames it into place."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with unfinished.open("wb") as stream:
            torch.save(content, stream)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def read(path: str | Path) -> dict[str, Any]:
    """Reads a checkpoint onto the CPU without running any code that the file might hold.

    Raises:
        TrainerError: there is no such file, or it is not a checkpoint of tensors and plain containers.
    """
    path = Path(path)
    if not path.is_file():
        raise TrainerError(f"checkpoint {path} does not exist")
    try:
        # The authors' training script stores its command line, a harmless bag of strings and numbers.
        with torch.serialization.safe_globals([argparse.Namespace]):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, pickle.UnpicklingError, EOFError, OSError, ValueError, KeyError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise TrainerError(f"checkpoint {path} cannot be read ({reason}); delete it or name another one") from None
    if not isinstance(content, dict):
        raise TrainerError(f"checkpoint {path} holds a {type(content).__name__}, not a dict of weights")
    return content


def find_checkpoint(pretrained: str | Path) -> Path:
    """The file behind a path to a checkpoint, or to the folder of a run that wrote one.

    Raises:
        TrainerError: there is neither.
    """
    path = Path(pretrained).expanduser()
    for candidate in (path, path / "checkpoints" / "best.pth", path / "best.pth"):
        if candidate.is_file():
            return candidate
    if path.is_dir():
        raise TrainerError(f"pretrained: folder {path} holds neither checkpoints/best.pth nor best.pth")
    raise TrainerError(f"pretrained: {path} does not exist; give coco, imagenet, none, or a checkpoint that does")
