from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch

from trainer.backbone import FrozenBatchNorm2d
from trainer.detr import build_model
from trainer.errors import TrainerError


@pytest.fixture(scope="module")
def official(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file shaped like the authors' (91 classes), of the small model with frozen normalisation."""
    torch.manual_seed(5)
    path = tmp_path_factory.mktemp("official") / "detr.pth"
    torch.save({"model": build_model("detr_tiny", 91, frozen_norm=True).state_dict()}, path)
    return path


def test_another_number_of_classes_makes_only_the_class_head_anew(official: Path, caplog):
    caplog.set_level(logging.INFO, logger="trainer")
    weights = torch.load(official, weights_only=True)["model"]
    own = build_model("detr_tiny", 2, str(official)).state_dict()
    assert own["class_embed.weight"].shape == (3, 128)
    for name, value in weights.items():
        if not name.startswith("class_embed."):
            assert torch.equal(own[name], value), name
    assert "made anew: class_embed;" in caplog.text


def test_another_number_of_queries_makes_them_anew(official: Path):
    weights = torch.load(official, weights_only=True)["model"]
    own = build_model("detr_tiny", 91, str(official), num_queries=5).state_dict()
    assert own["query_embed.weight"].shape == (5, 128)
    assert torch.equal(own["class_embed.weight"], weights["class_embed.weight"])


def test_the_same_sizes_load_everything(official: Path):
    weights = torch.load(official, weights_only=True)["model"]
    model = build_model("detr_tiny", 91, str(official))
    assert isinstance(model.backbone[0].body.bn1, FrozenBatchNorm2d)
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())


def test_weights_that_are_left_aside_are_named(official: Path, tmp_path: Path, caplog):
    caplog.set_level(logging.INFO, logger="trainer")
    weights = torch.load(official, weights_only=True)["model"]
    torch.save({"model": {**weights, "mask_head.lay1.weight": torch.zeros(1)}}, tmp_path / "more.pth")
    build_model("detr_tiny", 91, str(tmp_path / "more.pth"))
    assert "left aside: 1 (mask_head.lay1.weight" in caplog.text


def test_a_checkpoint_of_another_model_is_refused(official: Path, tmp_path: Path):
    with torch.device("meta"), pytest.raises(TrainerError, match="not a checkpoint of detr_resnet50"):
        build_model("detr_resnet50", 91, str(official))
    weights = torch.load(official, weights_only=True)["model"]
    weights["input_proj.weight"] = torch.zeros(128, 64, 1, 1)
    torch.save({"model": weights}, tmp_path / "other.pth")
    with pytest.raises(TrainerError, match=r"input_proj\.weight has shape"):
        build_model("detr_tiny", 91, str(tmp_path / "other.pth"))


def test_weights_out_of_reach_say_which_file_to_put_where(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    # No proxy answers on the discard port, so nothing leaves this machine.
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for source, file in (("coco", "detr-r50-e632da11.pth"), ("imagenet", "resnet50-0676ba61.pth")):
        with pytest.raises(TrainerError) as caught:
            build_model("detr_resnet50", 2, source)
        line = str(caught.value)
        assert str(tmp_path / "hub" / "checkpoints" / file) in line
        assert "pretrained to none" in line
        assert "\n" not in line


def test_imagenet_weights_are_found_where_the_message_says(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    torch.manual_seed(1)
    import torchvision

    weights = torchvision.models.resnet18().state_dict()
    place = tmp_path / "hub" / "checkpoints" / "resnet18-f37072fd.pth"
    place.parent.mkdir(parents=True)
    torch.save(weights, place)
    model = build_model("detr_tiny", 2, "imagenet")
    body = model.backbone[0].body
    assert torch.equal(body.conv1.weight, weights["conv1.weight"])
    assert isinstance(body.bn1, FrozenBatchNorm2d)


def test_the_small_model_has_no_coco_weights():
    with pytest.raises(TrainerError, match="no COCO weights for detr_tiny"):
        build_model("detr_tiny", 2, "coco")
