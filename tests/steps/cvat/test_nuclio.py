"""The function folder, as nuclio loads it and CVAT calls it."""

from __future__ import annotations

import base64
import importlib.util
import io
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from steps.cvat.boxes import plain_boxes
from steps.export import export_model
from tests.cvat_double import drawn_task
from tests.steps.refusals import refused
from trainer import load


@pytest.fixture
def folder(run: Path, tmp_path: Path) -> Path:
    (first, *_) = export_model(str(run), tmp_path / "function", "nuclio", "Nüsse & Bolzen 2")
    assert first.name == "function.yaml"
    return first.parent


@pytest.fixture
def answer(folder: Path) -> Any:
    """Call the handler as nuclio does, with what it gives a worker."""
    spec = importlib.util.spec_from_file_location("main", folder / "main.py")
    assert spec is not None
    assert spec.loader is not None
    main = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(main)
    logger = SimpleNamespace(info=lambda text: None)
    context = SimpleNamespace(user_data=SimpleNamespace(), logger=logger, Response=SimpleNamespace)
    main.init_context(context)
    return lambda body: main.handler(context, SimpleNamespace(body=body))


def test_an_image_in_base64_gives_the_models_boxes(answer: Any, run: Path) -> None:
    (content,) = drawn_task(1, 1).frames.values()
    detector = load(run / "checkpoints" / "best.pth")
    from PIL import Image

    (found,) = detector.predict([Image.open(io.BytesIO(content))], 0)
    response = answer({"image": base64.b64encode(content).decode(), "threshold": 0})
    assert (response.status_code, response.content_type) == (200, "application/json")
    assert json.loads(response.body) == [
        {"confidence": str(score), "label": detector.class_names[label], "points": points, "type": "rectangle"}
        for label, score, points in plain_boxes(found)
    ]
    assert json.loads(answer({"image": base64.b64encode(content).decode(), "threshold": 1.0}).body) == []
    assert json.loads(answer(json.dumps({"image": base64.b64encode(content).decode()}).encode()).body) == [
        each for each in json.loads(response.body) if float(each["confidence"]) >= 0.5
    ]


@pytest.mark.parametrize("image", ["", "%%%", "aGVsbG8="])
def test_what_is_no_image_is_said(image: str, answer: Any) -> None:
    response = answer({"image": image})
    assert response.status_code == 400
    assert "is not an image in base64" in response.body


def test_cvat_finds_in_the_annotations_what_its_menu_shows(folder: Path) -> None:
    function = yaml.safe_load((folder / "function.yaml").read_text(encoding="utf-8"))
    annotations = function["metadata"]["annotations"]
    assert (annotations["name"], annotations["type"]) == ("Nüsse & Bolzen 2", "detector")
    assert [(label["id"], label["name"]) for label in json.loads(annotations["spec"])] == [(0, "nut"), (1, "bolt")]
    assert function["metadata"]["name"] == "cvat-detr-n-sse-bolzen-2"
    assert function["spec"]["handler"] == "main:handler"
    assert sorted(path.name for path in folder.iterdir()) == ["function.yaml", "main.py", "model.pth", "model_card.md"]


def test_a_wrong_name_or_checkpoint_is_one_line(run: Path, tmp_path: Path) -> None:
    with refused("--name '&'"):
        export_model(str(run), tmp_path / "function", "nuclio", "&")
    with refused(str(tmp_path), "neither a checkpoint"):
        export_model(str(tmp_path), tmp_path / "function", "nuclio")
    assert not (tmp_path / "function").exists()
