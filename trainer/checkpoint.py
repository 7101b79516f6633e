"""Checkpoint files: tensors and plain containers, written so that a kill leaves the old file or the new.

They are zip files, in which torch writes the CRC-32 of each record and never looks at it again: it is checked here
whenever one is read, so that a damaged file gives no other weights. Files of earlier versions have theirs too.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import pickle
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Annotated, Any

import torch
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from typing_extensions import TypedDict

from trainer.errors import TrainerError

PLACES = ("", "checkpoints/best.pth", "best.pth")
"""Where a checkpoint may lie below the path that a user gives: that of a file, or of a run's folder."""


def save(path: Path, content: dict[str, Any]) -> None:
    """Writes a checkpoint, of which a kill leaves the old one or the new.

    Raises:
        TrainerError: the disk does not take it; the old one is as it was.
    """
    with replacing(path) as stream:
        try:
            torch.save(content, stream)
        except RuntimeError as error:
            # What the disk said is behind a remark about positions in the archive.
            raise (error.__context__ if isinstance(error.__context__, OSError) else error) from None


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """A file to write under a temporary name, which is then flushed to the disk and renamed into place.

    Raises:
        TrainerError: the disk does not take it; what was there before is as it was.
    """
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with _written(path):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with unfinished.open("wb") as stream:
                yield stream
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(unfinished, path)
        finally:
            unfinished.unlink(missing_ok=True)


def append(path: Path, line: str) -> None:
    """Adds a line to a file.

    Raises:
        TrainerError: the disk does not take it.
    """
    with _written(path), path.open("a", encoding="utf-8") as stream:
        stream.write(line + "\n")


@contextlib.contextmanager
def _written(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise TrainerError(
            f"{path} cannot be written ({error.strerror}); once it can, the same command goes on from the last"
            " checkpoint"
        ) from None


def write_json(path: Path, value: Any) -> None:
    """Writes JSON, whole or not at all; see `to_json`."""
    with replacing(path) as stream:
        stream.write(f"{to_json(value, indent=2)}\n".encode())


def to_json(value: Any, indent: int | None = None) -> str:
    """JSON as the standard has it, which knows neither infinity nor NaN: they become null."""
    return json.dumps(_finite(value), indent=indent, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(each) for name, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read(path: str | Path, remedy: str = "delete it or name another one") -> dict[str, Any]:
    """Reads a checkpoint onto the CPU without running any code that the file might hold.

    Raises:
        TrainerError: there is no such file, it is damaged, or it is not a checkpoint of tensors and plain containers;
            the message ends with the remedy.
    """
    path = Path(path)
    if not path.is_file():
        raise TrainerError(f"checkpoint {path} does not exist")
    try:
        _check_sums(path)
        # The authors' training script stores its command line, a harmless bag of strings and numbers.
        with torch.serialization.safe_globals([argparse.Namespace]), _quiet():
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        # A file that somebody made or a disk damaged can bring a reader to anything.
        raise TrainerError(f"checkpoint {path} cannot be read ({_first_line(error)}); {remedy}") from None
    if not isinstance(content, dict):
        raise TrainerError(f"checkpoint {path} holds a {type(content).__name__}, not a dict of weights")
    # Others' files, which say nothing of a model, are looked at by whoever takes weights from them.
    if content.keys() & _OURS:
        with using(path, remedy):
            _check(content)
    return content


@contextlib.contextmanager
def using(path: str | Path, remedy: str = "delete it or name another one") -> Iterator[None]:
    """What goes wrong while a model or a run is made of a checkpoint's content is the file's fault.

    Raises:
        TrainerError: anything did.
    """
    try:
        with _quiet():
            yield
    except TrainerError:
        raise
    except Exception as error:
        raise TrainerError(f"checkpoint {path} does not fit together ({_first_line(error)}); {remedy}") from None


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Let torch keep to itself what it thinks of an odd file."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _first_line(error: Exception) -> str:
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False)[0]
        return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    if isinstance(error, pickle.UnpicklingError):
        # torch's own words advise to load it all the same.
        return "it holds something other than tensors and plain containers"
    reason = f"{type(error).__name__}: {error}" if isinstance(error, LookupError | TypeError) else str(error)
    return next((line.strip() for line in reason.splitlines() if line.strip()), type(error).__name__)[:300]


Side = Annotated[int, Field(ge=1, le=100_000)]
Id = Annotated[int, Field(ge=-(2**63), lt=2**63)]


class _Content(TypedDict, total=False):
    """What our checkpoints hold; each may lack some, as those of earlier versions do."""

    __pydantic_config__ = ConfigDict(strict=True, arbitrary_types_allowed=True)  # type: ignore[misc]

    model: dict[str, torch.Tensor]
    family: str
    model_name: str
    spec: dict[str, Any]
    class_names: list[str]
    category_ids: list[Id]
    image_size: Side
    max_size: Side
    metrics: dict[str, float]
    operating_points: dict[str, Any]
    epoch: Annotated[int, Field(ge=0, lt=2**31)]
    config: dict[str, Any]
    optimizer: dict[str, Any]
    scaler: dict[str, Any]
    rng: list[dict[str, torch.Tensor]]
    position: dict[str, Any]
    averages: dict[str, Any]


_OURS = {"spec", "model_config", "class_names", "position"}
_CONTENT = TypeAdapter(_Content)
_LARGEST_SETTING = 10_000
"""Of a model's spec, beside what its weights have: no count in one is larger."""


def _check(content: dict[str, Any]) -> None:
    """Raises ValueError where a field has another type, or its spec asks for more than its weights can fill."""
    _CONTENT.validate_python(content)
    names, ids = content.get("class_names"), content.get("category_ids")
    if names is not None and ids is not None and len(names) != len(ids):
        raise ValueError("class_names and category_ids have different lengths")
    weights = content.get("model", {})
    described = model_in(content)
    if described is None:
        return
    largest = max((side for weight in weights.values() for side in weight.shape), default=0)
    pending: list[tuple[str, Any]] = [("spec", described[1])]
    while pending:
        name, value = pending.pop()
        if isinstance(value, dict):
            pending += [(str(key), each) for key, each in value.items()]
        elif isinstance(value, list | tuple):
            pending += [(name, each) for each in value]
        elif isinstance(value, int | float):
            # A layer has a weight at least.
            most = len(weights) if name.endswith("layers") else max(largest, _LARGEST_SETTING)
            if not abs(value) <= most:
                raise ValueError(f"{name} is {value}, and the weights are of {most} at most")


def _check_sums(path: Path) -> None:
    """Holds each record against the sum that was written with it.

    Raises:
        zipfile.BadZipFile: one differs.
    """
    # What the authors published is older than the zip files: of it torch sees for itself what it can.
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            # torch packs nothing: packed zeros would take a thousand times the file's size.
            if any(each.compress_type != zipfile.ZIP_STORED for each in archive.infolist()):
                raise zipfile.BadZipFile("its records are packed, which torch never writes")
            damaged = archive.testzip()
        if damaged is not None:
            raise zipfile.BadZipFile(f"it is damaged: the sum of {damaged} differs")


def last_path(output_dir: Path) -> Path:
    """Where a run keeps the checkpoint to resume from."""
    return output_dir / "checkpoints" / "last.pth"


def best_path(output_dir: Path) -> Path:
    """Where a run keeps the checkpoint to use."""
    return output_dir / "checkpoints" / "best.pth"


def read_last(output_dir: Path) -> dict[str, Any] | None:
    """The checkpoint that a run can be resumed from; None where there is none.

    Raises:
        TrainerError: it is damaged. Nothing else is taken in its place: neither the best weights nor a new start is
            what was asked for, and either costs what may still be saved by a copy.
    """
    path = last_path(output_dir)
    best = best_path(output_dir)
    start_again = f"delete it to start anew, or start from {best} with --checkpoint and another output folder"
    return read(path, start_again) if path.is_file() else None


def find_checkpoint(path: str | Path) -> Path | None:
    """The file behind a path to a checkpoint, or to the folder of a run that wrote one; None where neither is."""
    # Unlike pathlib's, this one lets a name pass that belongs to nobody: there is no such file.
    path = Path(os.path.expanduser(path))
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
