"""Writers of the formats that a checkpoint can be exported to."""

from __future__ import annotations

import json
import logging
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from trainer import checkpoint
from trainer.errors import TrainerError
from trainer.evaluation.detector import from_content
from trainer.export.graph import INPUTS, OUTPUTS, DetectionGraph, described, example_inputs

_log = logging.getLogger("trainer")

OPSET = 20
"""Of ONNX: the first whose GridSample and friends all of the networks need (onnxruntime from 1.17)."""
_TRACED, _CHECKED = 128, 192
"""Sides in px of the images that a graph is recorded with and checked with."""
_SURE = 0.05
_PIXELS = 1e-2
"""Scores from which the file must give the same boxes, and how far they may be apart on noise."""


@dataclass(frozen=True)
class Export:
    """A checkpoint on its way into a file."""

    content: dict[str, Any]
    graph: DetectionGraph
    metadata: dict[str, str]


def export(path: str | Path, to: str, folder: str | Path) -> list[Path]:
    """Writes a checkpoint in another format.

    A graph is run on images of another size and number than those it was recorded with, and is thrown away where it
    gives other boxes than the checkpoint.

    Args:
        path: of a checkpoint, or of the folder of a run.
        to: a name in `FORMATS`.
        folder: where the files go: `model` with the format's suffix.

    Returns:
        The files, the one to open first.

    Raises:
        TrainerError: the checkpoint cannot be used; a package is missing; or the model cannot be exported so.
    """
    if to not in FORMATS:
        raise TrainerError(f"'{to}' is no format to export to; it can be {', '.join(FORMATS)}")
    file = checkpoint.find_checkpoint(path)
    if file is None:
        raise TrainerError(f"{path} is neither a checkpoint nor the folder of a run that made one")
    content = checkpoint.read(file)
    detector = from_content(content, file, torch.device("cpu"))
    job = Export(content, DetectionGraph(detector.model).requires_grad_(False), described(content, detector.thresholds))
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    # Written aside: what fails on the way or in the check does not replace a file that works.
    with tempfile.TemporaryDirectory(dir=folder, prefix=".export-") as scratch:
        written = FORMATS[to](job, Path(scratch))
        # The file to open goes first and comes last, so that it never stands beside another model's weights.
        if len(written) > 1:
            (folder / written[0].name).unlink(missing_ok=True)
        return [part.replace(folder / part.name) for part in reversed(written)][::-1]


def _to_onnx(job: Export, folder: Path) -> list[Path]:
    runtime, onnx = _package("onnxruntime", "onnx")
    file = folder / "model.onnx"
    _write_onnx(job, file, onnx)
    session = runtime.InferenceSession(file, providers=["CPUExecutionProvider"])

    def run(*inputs: Tensor) -> list[Any]:
        return session.run(list(OUTPUTS), {name: value.numpy() for name, value in zip(INPUTS, inputs, strict=True)})

    _check(job, run, "onnx")
    return [file]


def _to_openvino(job: Export, folder: Path) -> list[Path]:
    openvino, onnx = _package("openvino", "onnx")
    _write_onnx(job, folder / "model.onnx", onnx)
    model = openvino.convert_model(folder / "model.onnx")
    for name, value in job.metadata.items():
        model.set_rt_info(value, ["model_info", name])
    file = folder / "model.xml"
    # Halves of the weights' digits would move boxes by more than a pixel.
    openvino.save_model(model, file, compress_to_fp16=False)
    compiled = openvino.compile_model(file, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})

    def run(*inputs: Tensor) -> list[Any]:
        said = compiled(dict(zip(INPUTS, (value.numpy() for value in inputs), strict=True)))
        return [said[name] for name in OUTPUTS]

    _check(job, run, "openvino")
    return [file, file.with_suffix(".bin")]


def _to_torchscript(job: Export, folder: Path) -> list[Path]:
    file = folder / "model.torchscript"
    with _one_line("torchscript", job), torch.no_grad():
        traced = torch.jit.trace(job.graph, example_inputs(_TRACED), check_trace=False)
        torch.jit.save(traced, file, _extra_files=job.metadata)
        _check(job, torch.jit.load(file), "torchscript")
    return [file]


def _to_safetensors(job: Export, folder: Path) -> list[Path]:
    (safetensors,) = _package("safetensors.torch")
    file = folder / "model.safetensors"
    spec = json.dumps(job.graph.model.spec, ensure_ascii=False)
    # Copies, since some networks hold a weight under two names, and the format takes none that share memory.
    weights = {name: value.clone().contiguous() for name, value in job.graph.model.state_dict().items()}
    safetensors.save_file(weights, file, metadata={**job.metadata, "spec": spec})
    return [file]


FORMATS: dict[str, Callable[[Export, Path], list[Path]]] = {
    "onnx": _to_onnx,
    "torchscript": _to_torchscript,
    "safetensors": _to_safetensors,
    "openvino": _to_openvino,
}


@torch.no_grad()
def _write_onnx(job: Export, file: Path, onnx: Any) -> None:
    _package("onnxscript")
    inputs = example_inputs(_TRACED)
    any_number = torch.export.Dim.DYNAMIC
    shapes = ({0: any_number, 2: any_number, 3: any_number}, {0: any_number}, {0: any_number})
    with _one_line("onnx", job):
        # Eagerly first: what the networks keep from call to call must not be the exporter's placeholders.
        job.graph(*inputs)
        program = torch.onnx.export(
            job.graph,
            inputs,
            dynamo=True,
            opset_version=OPSET,
            input_names=list(INPUTS),
            output_names=list(OUTPUTS),
            dynamic_shapes=shapes,
            verbose=False,
        )
        assert program is not None
        program.save(file, external_data=False)
    model = onnx.load(file)
    names = (("batch", None, "height", "width"), ("batch", None), ("batch", None))
    for value, dims in zip(model.graph.input, names, strict=True):
        for dim, name in zip(value.type.tensor_type.shape.dim, dims, strict=True):
            if name:
                dim.dim_param = name
    for value in model.graph.output:
        for dim, name in zip(value.type.tensor_type.shape.dim, ("batch", "detections"), strict=False):
            dim.dim_param = name
    # Shapes of what lies between were written in terms of the exporter's names.
    del model.graph.value_info[:]
    onnx.helper.set_model_props(model, job.metadata)
    onnx.save(model, file)


@torch.no_grad()
def _check(job: Export, run: Callable[..., Any], to: str) -> None:
    """Makes sure that a file gives the model's boxes.

    Raises:
        TrainerError: it does not.
    """
    inputs = example_inputs(_CHECKED, batch=3)
    with _one_line(to, job):
        told = [torch.as_tensor(value) for value in run(*inputs)]
    (boxes, scores, labels), (their_boxes, _, their_labels) = job.graph(*inputs), told
    for image in range(len(boxes)):
        for box, label in zip(boxes[image][scores[image] >= _SURE], labels[image][scores[image] >= _SURE], strict=True):
            # Of equal scores, of which untrained models have many, the two may choose differently.
            apart = (their_boxes[image][their_labels[image] == label] - box).abs().amax(-1)
            if not len(apart) or apart.min() > _PIXELS:
                raise TrainerError(
                    f"{job.metadata['model']} does not give the same boxes as {to}: export it to safetensors"
                )


@contextmanager
def _one_line(to: str, job: Export) -> Iterator[None]:
    """What the exporters raise, in one line: there is nothing that a user could do about it."""
    exporter = logging.getLogger("torch.onnx"), logging.getLogger("onnxscript"), logging.getLogger("onnx_ir")
    levels = [logger.level for logger in exporter]
    for logger in exporter:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except TrainerError:
        raise
    except Exception as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise TrainerError(
            f"{job.metadata['model']} cannot be exported to {to} ({lines[0]}): export it to safetensors"
        ) from None
    finally:
        for logger, level in zip(exporter, levels, strict=True):
            logger.setLevel(level)


def _package(*names: str) -> list[Any]:
    try:
        return [import_module(name) for name in names]
    except ImportError as error:
        package = str(error.name).partition(".")[0]
        raise TrainerError(f"{package} is not installed: pip install 'cvat-detr[export]'") from None
