"""Checkpoint files: tensors and plain containers, written so that a kill leaves the old file or the new."""

from __future__ import annotations

import argparse
import contextlib
import os
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import torch

from trainer.errors import TrainerError

PLACES = ("", "checkpoints/best.pth", "best.pth")
"""Where a checkpoint may lie below the path that a user gives: that of a file, or of a run's folder."""


def save(path: Path, content: dict[str, Any]) -> None:
    """Writes a checkpoint, of which a kill leaves the old one or the new."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as stream:
        torch.save(content, stream)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """A file to write under a temporary name, which is then flushed to the disk and renamed into place."""
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with unfinished.open("wb") as stream:
            yield stream
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


def find_checkpoint(path: str | Path) -> Path | None:
    """The file behind a path to a checkpoint, or to the folder of a run that wrote one; None where neither is."""
    path = Path(path).expanduser()
    return next((path / place for place in PLACES if (path / place).is_file()), None)


def model_in(content: dict[str, Any]) -> tuple[str, dict[str, Any]] | None:
    """The family and the spec of the model whose weights a checkpoint holds; None where it does not say.

    Checkpoints from before there were families are of a DETR, and spell the spec as `model_config`.
    """
    if "spec" in content:
        return content["family"], content["spec"]
    if "model_config" not in content:
        return None
    old = dict(content["model_config"])
    return "detr", {"model": old.pop("name"), **old.pop("sizes"), **old}
