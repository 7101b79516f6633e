"""Exporting as a step, and the card beside the file."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

import steps
from steps.evaluate import evaluate_model
from steps.export import export_model
from steps.prepare import prepare_data
from steps.train import train_model
from tests.conftest import write_coco_dump
from tests.steps.refusals import refused
from trainer import checkpoint


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of one epoch."""
    folder = tmp_path_factory.mktemp("run")
    write_coco_dump(folder / "dataset")
    prepare_data(folder / "dataset")
    settings = "image_size: 64\nmax_size: 64\nnum_queries: 5"
    train_model(folder / "dataset", folder / "run", model="detr_tiny", epochs=1, hyperparameters=settings)
    evaluate_model(folder / "dataset", folder / "run")
    return folder / "run"


def rows_of(card: str) -> dict[str, list[str]]:
    """The rows of the card's tables by their first cell."""
    cells = [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in card.splitlines() if line[:1] == "|"]
    return {row[0]: row[1:] for row in cells}


def test_the_card_tells_what_the_run_knew(run: Path, tmp_path: Path) -> None:
    file, card = export_model(str(run), tmp_path, "safetensors")
    assert (file, card) == (tmp_path / "model.safetensors", tmp_path / "model_card.md")
    text = card.read_text()
    trained, metrics = (json.loads((run / name).read_text()) for name in ("train.json", "metrics.json"))
    rows = rows_of(text)
    assert rows["training"] == [str(trained[what]["train"]) for what in ("images", "boxes")]
    assert rows["validation"] == [str(trained[what]["val"]) for what in ("images", "boxes")]
    for name, id_ in (("bolt", "17"), ("nut", "4")):
        assert rows[name][:2] == [id_, str(metrics["per_class"][name]["boxes"])]
        assert rows[name][2] == f"{metrics['per_class'][name]['AP']:.3f}"
    assert "Initial weights: none: random weights." in text
    assert "`model.safetensors`" in text


@pytest.mark.parametrize(
    ("model", "pretrained", "words"),
    [
        ("detr_resnet50", "coco", "facebookresearch/detr.*Apache-2.0"),
        ("detr_resnet50", "imagenet", "torchvision's resnet50.*BSD-3-Clause"),
        ("ddq_lite0", "imagenet", "EfficientNet-lite0.*Apache-2.0"),
        ("fasterrcnn_resnet50", "coco", "torchvision's Faster R-CNN.*BSD-3-Clause"),
        ("ddq_lite0", "/models/best.pth", "/models/best.pth.*see its card"),
        ("hf:PekingU/rtdetr_r18vd", "published", "PekingU/rtdetr_r18vd at abc.*apache-2.0"),
    ],
)
def test_the_licence_of_the_first_weights(
    run: Path, tmp_path: Path, model: str, pretrained: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from steps.model_card import write_model_card

    content: dict[str, Any] = checkpoint.read(run / "checkpoints" / "best.pth")
    content["family"] = model.partition("_")[0].partition(":")[0]
    content["spec"] = {"model": model, "license": "apache-2.0", "revision": "abc"}
    content["config"]["pretrained"] = pretrained
    write_model_card(tmp_path / "card.md", content, tmp_path, [])
    assert re.search(f"Initial weights: .*{words}", (tmp_path / "card.md").read_text())


def test_a_model_in_a_bucket(run: Path, put: Any, bucket: str, tmp_path: Path) -> None:
    put("ns/models/1/checkpoints/best.pth", run / "checkpoints" / "best.pth")
    export_model("models/1", tmp_path, "safetensors", namespace="ns")
    assert (tmp_path / "model.safetensors").stat().st_size > 1000
    assert rows_of((tmp_path / "model_card.md").read_text())["bolt"][0] == "17"
    for address in (f"s3://{bucket}/ns/models/1", "ns/models/1/checkpoints/best.pth", str(run)):
        detector = steps.load(address)
        assert dict(zip(detector.category_ids, detector.class_names, strict=True)) == {4: "nut", 17: "bolt"}


def test_refusals(run: Path, no_aws: None, tmp_path: Path) -> None:
    with refused("absent", "neither a checkpoint nor the folder of a run"):
        export_model(str(tmp_path / "absent"), tmp_path / "out", "onnx")
    (tmp_path / "broken.pth").write_bytes(b"nonsense")
    with refused("broken.pth", "cannot be read"):
        export_model(str(tmp_path / "broken.pth"), tmp_path / "out", "onnx")
    with refused("broken.pth", "cannot be read"):
        steps.load(tmp_path / "broken.pth")
