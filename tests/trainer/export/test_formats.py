"""Exported files, run by the software that they are for, on real images."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from torch import nn

from pipelines.local.sample import draw_sample
from tests.conftest import SHARED_DUMP
from tests.trainer.models.hf.tiny import save_tiny
from trainer import checkpoint
from trainer.errors import TrainerError
from trainer.evaluation.detector import from_content, load
from trainer.export.formats import FORMATS, export
from trainer.export.graph import INPUTS, OUTPUTS
from trainer.models.detr.model import DETR
from trainer.models.registry import family_of

Run = Callable[[dict[str, np.ndarray]], list[np.ndarray]]
NAMES = ["platelet", "red cell", "white cell"]
SMALL_DETR = {"enc_layers": 1, "dec_layers": 1, "num_queries": 20}
SMALL_DDQ = {"dim": 32, "num_queries": 20, "candidates": 60, "feedforward": 64, "decoder_layers": 1}


def write_checkpoint(folder: Path, model: str, **settings: Any) -> Path:
    """A run's folder with random weights, whose scores differ from one another more than rounding does."""
    torch.manual_seed(0)
    family = family_of(model)
    network = family.build({"model": model, "num_classes": len(NAMES), **settings})
    for name, module in network.named_modules():
        if "class_embed" in name and isinstance(module, (nn.Linear, nn.Conv2d)):
            nn.init.normal_(module.weight, std=0.3)
    content = {
        "model": network.state_dict(),
        "family": family.name,
        "spec": network.spec,
        "class_names": NAMES,
        "category_ids": [3, 4, 9],
        "image_size": 96,
        "max_size": 150,
        "operating_points": {"overall": {"score": 0.4}, "per_class": {"red cell": {"score": 0.3}}},
    }
    checkpoint.save(folder / "checkpoints" / "best.pth", content)
    return folder


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> list[Image.Image]:
    """Photographs where they are here, else drawn ones; of different sizes."""
    if SHARED_DUMP.is_file():
        with zipfile.ZipFile(SHARED_DUMP) as dump:
            names = sorted(name for name in dump.namelist() if name.endswith(".jpg"))[:3]
            opened = [Image.open(io.BytesIO(dump.read(name))) for name in names]
    else:
        opened = [Image.open(file) for file in sorted((draw_sample(tmp_path_factory.mktemp("s"), 3)).rglob("*.jpg"))]
    return [opened[0], opened[1].crop((0, 0, 80, opened[1].height)), opened[2].crop((5, 7, opened[2].width, 60))]


def inputs_of(images: list[Image.Image], image_size: int, max_size: int) -> dict[str, np.ndarray]:
    """What a user of the file makes of images, by its contract alone."""
    upright = [ImageOps.exif_transpose(image).convert("RGB") for image in images]
    scales = [min(image_size / min(image.size), max_size / max(image.size)) for image in upright]
    resized = [
        image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BILINEAR)
        for image, scale in zip(upright, scales, strict=True)
    ]
    height, width = max(image.height for image in resized), max(image.width for image in resized)
    # The contract allows any padding.
    pixels = np.full((len(images), 3, height, width), 77, dtype=np.uint8)
    for place, image in enumerate(resized):
        pixels[place, :, : image.height, : image.width] = np.asarray(image).transpose(2, 0, 1)
    return {
        "images": pixels,
        "image_sizes": np.array([[image.height, image.width] for image in resized], dtype=np.int64),
        "target_sizes": np.array([[image.height, image.width] for image in upright], dtype=np.int64),
    }


def compare(run: Run, folder: Path, images: list[Image.Image], pixels: float = 1e-3) -> int:
    """How many detections a file shares with the checkpoint, in batches of another number and size each."""
    detector, compared = load(folder, device="cpu"), 0
    for batch in (images, images[:1], images[1:]):
        found = detector.predict(batch, threshold=0)
        boxes, scores, labels = run(inputs_of(batch, 96, 150))
        for place, (wanted, image) in enumerate(zip(found, batch, strict=True)):
            order = np.argsort(-scores[place], kind="stable")
            order = order[scores[place][order] > 0]
            np.testing.assert_allclose(scores[place][order], wanted["scores"], atol=1e-5)
            assert labels[place][order].tolist() == wanted["labels"].tolist()
            limit = [image.width, image.height] * 2
            np.testing.assert_allclose(boxes[place][order].clip(0, limit), wanted["boxes"], atol=pixels)
            compared += len(order)
    return compared


def run_onnx(file: Path) -> tuple[Run, Any]:
    runtime = pytest.importorskip("onnxruntime")
    session = runtime.InferenceSession(file)
    return lambda inputs: session.run(list(OUTPUTS), inputs), session


def test_onnx_gives_the_same_boxes_for_any_number_and_size(tmp_path: Path, images: list[Image.Image]) -> None:
    run = write_checkpoint(tmp_path / "run", "detr_tiny", **SMALL_DETR)
    [file] = export(run, "onnx", tmp_path / "out")
    infer, session = run_onnx(file)
    assert compare(infer, run, images) == 6 * 20
    assert [(value.name, value.shape, value.type) for value in session.get_inputs()] == [
        ("images", ["batch", 3, "height", "width"], "tensor(uint8)"),
        ("image_sizes", ["batch", 2], "tensor(int64)"),
        ("target_sizes", ["batch", 2], "tensor(int64)"),
    ]
    assert [value.name for value in session.get_outputs()] == list(OUTPUTS)
    about = session.get_modelmeta().custom_metadata_map
    assert json.loads(about["class_names"]) == NAMES
    assert json.loads(about["thresholds"]) == [0.4, 0.3, 0.4]
    assert (about["image_size"], about["max_size"]) == ("96", "150")
    assert all(f"{name}:" in about["contract"] for name in (*INPUTS, *OUTPUTS))
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["model.onnx"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "settings"), [("ddq_lite0", {}), ("ddq_lite0", {"num_queries": 300}), ("detr_resnet50", {})]
)
def test_onnx_of_whole_models(tmp_path: Path, images: list[Image.Image], model: str, settings: dict[str, Any]) -> None:
    run = write_checkpoint(tmp_path / "run", model, **settings)
    [file] = export(run, "onnx", tmp_path / "out")
    assert compare(run_onnx(file)[0], run, images) > 30


@pytest.mark.slow
@pytest.mark.parametrize(("model", "settings"), [("ddq_lite0", SMALL_DDQ), ("detr_tiny", SMALL_DETR)])
def test_openvino_gives_the_same_boxes(
    tmp_path: Path, images: list[Image.Image], model: str, settings: dict[str, Any]
) -> None:
    openvino = pytest.importorskip("openvino")
    run = write_checkpoint(tmp_path / "run", model, **settings)
    file, weights = export(run, "openvino", tmp_path / "out")
    assert weights.is_file()
    read = openvino.Core().read_model(file)
    compiled = openvino.compile_model(read, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})

    def infer(inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
        said = compiled(inputs)
        return [said[name] for name in OUTPUTS]

    # Its convolutions round otherwise: the boxes are of images three times the size that the network sees.
    assert compare(infer, run, images, pixels=5e-3) > 30
    assert json.loads(read.get_rt_info(["model_info", "class_names"]).astype(str)) == NAMES


@pytest.mark.parametrize(("model", "settings"), [("ddq_lite0", SMALL_DDQ), ("detr_tiny", SMALL_DETR)])
def test_torchscript_runs_without_this_project(
    tmp_path: Path, images: list[Image.Image], model: str, settings: dict[str, Any]
) -> None:
    run = write_checkpoint(tmp_path / "run", model, **settings)
    [file] = export(run, "torchscript", tmp_path / "out")
    np.savez(tmp_path / "inputs.npz", **inputs_of(images, 96, 150))
    code = """
import sys, numpy, torch
about = {"class_names": ""}
model = torch.jit.load(sys.argv[1], _extra_files=about)
inputs = numpy.load(sys.argv[2])
outputs = model(*(torch.from_numpy(inputs[name]) for name in ("images", "image_sizes", "target_sizes")))
assert "trainer" not in sys.modules
numpy.savez(sys.argv[3], about=about["class_names"].decode(), *outputs)
"""
    arguments = [str(file), str(tmp_path / "inputs.npz"), str(tmp_path / "outputs.npz")]
    subprocess.run([sys.executable, "-c", code, *arguments], check=True, cwd=tmp_path)
    outputs = np.load(tmp_path / "outputs.npz")
    assert json.loads(str(outputs["about"])) == NAMES

    traced = torch.jit.load(file)

    def infer(inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
        return [value.numpy() for value in traced(*(torch.from_numpy(inputs[name]) for name in INPUTS))]

    assert compare(infer, run, images) > 30
    again = infer(inputs_of(images, 96, 150))
    for place, value in enumerate(again):
        np.testing.assert_allclose(outputs[f"arr_{place}"], value, atol=1e-3)


@pytest.mark.parametrize("model", ["detr_tiny", "fasterrcnn_lite0"])
def test_safetensors_make_the_same_model_again(tmp_path: Path, images: list[Image.Image], model: str) -> None:
    safetensors = pytest.importorskip("safetensors")
    run = write_checkpoint(tmp_path / "run", model)
    [file] = export(run, "safetensors", tmp_path / "out")
    with safetensors.safe_open(file, "pt") as opened:
        about = opened.metadata()
        weights = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    content = {name: json.loads(about[name]) for name in ("spec", "class_names", "category_ids", "operating_points")}
    content |= {"model": weights, "family": about["family"], "image_size": int(about["image_size"])}
    again = from_content({**content, "max_size": int(about["max_size"])}, file, torch.device("cpu"))
    wanted = load(run, device="cpu").predict(images)
    for one, other in zip(again.predict(images), wanted, strict=True):
        assert all(torch.equal(one[name], other[name]) for name in one)


class TestRefusals:
    @pytest.mark.parametrize("to", ["onnx", "torchscript", "openvino"])
    def test_a_model_that_is_no_graph(self, tmp_path: Path, to: str) -> None:
        run = write_checkpoint(tmp_path / "run", "fasterrcnn_lite0")
        with pytest.raises(TrainerError, match=r"fasterrcnn_lite0 cannot be exported as a graph.*to safetensors$"):
            export(run, to, tmp_path / "out")
        assert list((tmp_path / "out").iterdir()) == []

    def test_a_published_model(self, tmp_path: Path) -> None:
        # Its library makes Python numbers of a batch's sizes, which a graph would keep for all images.
        pytest.importorskip("transformers")
        run = write_checkpoint(tmp_path / "run", f"hf:{save_tiny('d_fine', tmp_path / 'published')}")
        with pytest.raises(TrainerError, match=r"published cannot be exported as a graph.*to safetensors$"):
            export(run, "onnx", tmp_path / "out")
        [file] = export(run, "safetensors", tmp_path / "out")
        assert file.stat().st_size > 10_000

    def test_what_is_cut_off_leaves_no_pair_that_does_not_belong_together(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        run, out = write_checkpoint(tmp_path / "run", "detr_tiny", **SMALL_DETR), tmp_path / "out"

        def write_pair(job: Any, folder: Path) -> list[Path]:
            pair = [folder / "model.xml", folder / "model.bin"]
            for file in pair:
                file.write_text(f"of {folder.name}")
            return pair

        monkeypatch.setitem(FORMATS, "openvino", write_pair)
        old = export(run, "openvino", out)
        assert [file.name for file in old] == ["model.xml", "model.bin"]
        moves, move = iter([True]), Path.replace

        def fails_later(self: Path, target: Path) -> Path:
            if not next(moves, False):
                raise OSError("the disk is full")
            return move(self, target)

        monkeypatch.setattr(Path, "replace", fails_later)
        with pytest.raises(OSError, match="full"):
            export(run, "openvino", out)
        assert [file.name for file in out.iterdir()] == ["model.bin"]

    def test_an_unknown_format(self, tmp_path: Path) -> None:
        with pytest.raises(TrainerError, match=f"'tflite' is no format.*{', '.join(FORMATS)}"):
            export(tmp_path, "tflite", tmp_path)

    def test_no_checkpoint(self, tmp_path: Path) -> None:
        with pytest.raises(TrainerError, match="neither a checkpoint nor the folder of a run"):
            export(tmp_path, "onnx", tmp_path)

    def test_a_file_that_gives_other_boxes(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        run = write_checkpoint(tmp_path / "run", "detr_tiny", **SMALL_DETR)
        # What tracing does to a number that is not a tensor: it stays that of the images it was recorded with.
        forward = DETR.forward

        def frozen(self: DETR, images: torch.Tensor, mask: torch.Tensor, *more: Any) -> dict[str, Any]:
            outputs = forward(self, images, mask, *more)
            if torch.jit.is_tracing():
                outputs["pred_boxes"] = outputs["pred_boxes"] * (1 + float(mask.sum()) / mask.numel())
            return outputs

        monkeypatch.setattr(DETR, "forward", frozen)
        with pytest.raises(TrainerError, match="detr_tiny does not give the same boxes as torchscript"):
            export(run, "torchscript", tmp_path / "out")
        assert list((tmp_path / "out").iterdir()) == []
