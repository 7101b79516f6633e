from __future__ import annotations

import logging
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.trainer.building import build_model
from trainer import checkpoint
from trainer.errors import TrainerError
from trainer.models import download
from trainer.models.backbones.frozen_norm import FrozenBatchNorm2d
from trainer.models.detr.anchors import spread_boxes
from trainer.models.detr.model import DETR
from trainer.models.detr.pretrained import _COCO_NAMES


@pytest.fixture(scope="module")
def official(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file shaped like the authors' (91 class ids), of the small model with frozen normalisation."""
    torch.manual_seed(5)
    path = tmp_path_factory.mktemp("official") / "detr.pth"
    torch.save({"model": build_model("detr_tiny", 91, frozen_norm=True).state_dict()}, path)
    return path


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of ours that knows three classes."""
    torch.manual_seed(6)
    model = build_model("detr_tiny", 3)
    path = tmp_path_factory.mktemp("run")
    content = {
        "model": model.state_dict(),
        "family": "detr",
        "spec": model.spec,
        "class_names": ["Hex Nut", "bolt", "washer"],
        "category_ids": [4, 17, 20],
    }
    checkpoint.save(path / "checkpoints" / "best.pth", content)
    return path


def weights_in(path: Path) -> dict[str, Any]:
    return dict(torch.load(path, weights_only=True)["model"])


def rows(model: DETR) -> torch.Tensor:
    """The class head as one tensor `[C + 1, dim + 1]`."""
    return torch.cat([model.class_embed.weight, model.class_embed.bias[:, None]], dim=1).detach()


def rows_in(path: Path) -> torch.Tensor:
    weights = weights_in(path)
    return torch.cat([weights["class_embed.weight"], weights["class_embed.bias"][:, None]], dim=1)


def test_classes_are_found_in_the_authors_weights_by_name(official: Path, caplog):
    caplog.set_level(logging.INFO, logger="trainer")
    known = rows_in(official)
    own = rows(build_model("detr_tiny", 4, str(official), class_names=["bolt", "Traffic_Light", "PERSON", "stop-sign"]))
    assert torch.equal(own[1:], known[[10, 1, 13, 91]])
    assert torch.allclose(own[0], known[[row for row, name in enumerate(_COCO_NAMES) if name]].mean(0), atol=1e-6)
    assert "kept rows for Traffic_Light, PERSON, stop-sign; made anew for bolt" in caplog.text


def test_all_but_the_class_head_is_loaded_for_other_classes(official: Path):
    weights = weights_in(official)
    own = build_model("detr_tiny", 2, str(official), class_names=["bolt", "nut"]).state_dict()
    assert own["class_embed.weight"].shape == (3, 128)
    for name, value in weights.items():
        if not name.startswith("class_embed."):
            assert torch.equal(own[name], value), name


def test_classes_in_another_order_keep_their_rows(run: Path):
    known = rows_in(run / "checkpoints" / "best.pth")
    own = rows(build_model("detr_tiny", 3, str(run), class_names=["washer", "hexnut", "bolt"]))
    assert torch.equal(own, known[[2, 0, 1, 3]])


def test_as_many_but_other_classes_are_made_anew(run: Path, caplog):
    caplog.set_level(logging.INFO, logger="trainer")
    known = rows_in(run / "checkpoints" / "best.pth")
    own = rows(build_model("detr_tiny", 3, str(run), class_names=["cell", "bolt", "platelet"]))
    assert torch.equal(own[[1, 3]], known[[1, 3]])
    for row in (0, 2):
        assert torch.allclose(own[row], known[:3].mean(0), atol=1e-6)
    assert "kept rows for bolt; made anew for cell, platelet" in caplog.text


def test_a_file_that_names_no_classes_gives_only_its_no_object(tmp_path: Path, caplog):
    caplog.set_level(logging.INFO, logger="trainer")
    path = tmp_path / "nameless.pth"
    torch.save({"model": build_model("detr_tiny", 3).state_dict()}, path)
    known = rows_in(path)
    own = rows(build_model("detr_tiny", 3, str(path), class_names=["bolt", "nut", "washer"]))
    assert torch.equal(own[3], known[3])
    assert not (own[:3, None] == known[None, :3]).all(-1).any()
    assert "does not name its classes" in caplog.text
    assert "made anew for bolt, nut, washer" in caplog.text


def test_without_names_the_same_number_of_classes_loads_everything(official: Path):
    weights = weights_in(official)
    model = build_model("detr_tiny", 91, str(official))
    assert isinstance(model.backbone[0].body.bn1, FrozenBatchNorm2d)
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())


def test_without_names_another_number_of_classes_keeps_no_object(official: Path):
    own = rows(build_model("detr_tiny", 2, str(official)))
    assert own.shape == (3, 129)
    assert torch.equal(own[2], rows_in(official)[91])


@pytest.mark.parametrize("wanted", [5, 20, 33])
def test_the_queries_that_both_have_are_kept(official: Path, wanted: int):
    theirs = weights_in(official)["query_embed.weight"]
    torch.manual_seed(1)
    own = build_model("detr_tiny", 91, str(official), num_queries=wanted).query_embed.weight
    assert own.shape == (wanted, 128)
    kept = min(wanted, 20)
    assert torch.equal(own[:kept], theirs[:kept])
    # What is new starts as random queries do: of deviation 1, each its own.
    assert wanted <= 20 or 0.9 < own[20:].std() < 1.1


def test_queries_keep_their_places(tmp_path: Path):
    torch.manual_seed(2)
    earlier = build_model("detr_lite0", 2, num_queries=12)
    torch.nn.init.normal_(earlier.query_anchor.weight)
    torch.save({"model": earlier.state_dict()}, tmp_path / "lite.pth")
    for wanted in (8, 30):
        own = build_model("detr_lite0", 2, str(tmp_path / "lite.pth"), num_queries=wanted)
        kept = min(12, wanted)
        assert torch.equal(own.query_anchor.weight[:kept], earlier.query_anchor.weight[:kept])
        assert torch.equal(own.query_embed.weight[:kept], earlier.query_embed.weight[:kept])
        assert torch.equal(own.query_anchor.weight[kept:], spread_boxes(30)[kept:wanted].logit())


def test_a_run_is_named_by_its_folder_or_by_its_file(run: Path, tmp_path: Path):
    file = run / "checkpoints" / "best.pth"
    assert (
        checkpoint.find_checkpoint(run)
        == checkpoint.find_checkpoint(run / "checkpoints")
        == checkpoint.find_checkpoint(file)
        == file
    )
    with pytest.raises(TrainerError, match="neither a checkpoint nor the folder of a run"):
        build_model("detr_tiny", 3, str(tmp_path))
    with pytest.raises(TrainerError, match="coco, imagenet, none"):
        build_model("detr_tiny", 3, str(tmp_path / "imagnet"))


def test_normalisation_is_as_the_weights_were_made(run: Path, official: Path):
    assert isinstance(build_model("detr_tiny", 3, str(run)).backbone[0].body.bn1, torch.nn.BatchNorm2d)
    assert isinstance(build_model("detr_tiny", 3, str(official)).backbone[0].body.bn1, FrozenBatchNorm2d)


def test_dilation_changes_no_shape(tmp_path: Path):
    path = tmp_path / "r50.pth"
    torch.save({"model": build_model("detr_resnet50", 2, frozen_norm=True).state_dict()}, path)
    weights = weights_in(path)
    own = build_model("detr_resnet50_dc5", 2, str(path)).state_dict()
    assert all(torch.equal(own[name], value) for name, value in weights.items())


def test_weights_that_are_ignored_are_named(official: Path, tmp_path: Path, caplog):
    caplog.set_level(logging.INFO, logger="trainer")
    torch.save({"model": {**weights_in(official), "mask_head.lay1.weight": torch.zeros(1)}}, tmp_path / "more.pth")
    build_model("detr_tiny", 91, str(tmp_path / "more.pth"))
    assert "ignored 1 of its tensors" in caplog.text
    assert "mask_head.lay1.weight" in caplog.text


def test_a_checkpoint_of_another_model_is_refused(official: Path, tmp_path: Path):
    with torch.device("meta"), pytest.raises(TrainerError, match="not a checkpoint of detr_resnet50"):
        build_model("detr_resnet50", 91, str(official))
    for name, shape in (("input_proj.weight", (128, 64, 1, 1)), ("class_embed.weight", (92, 64))):
        torch.save({"model": {**weights_in(official), name: torch.zeros(shape)}}, tmp_path / "other.pth")
        with pytest.raises(TrainerError, match=f"{name} has shape") as caught:
            build_model("detr_tiny", 91, str(tmp_path / "other.pth"))
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [{"state_dict": {}}, {"model": "resnet"}, {"model": {"query_embed.weight": 3}}])
def test_a_file_that_holds_no_detr_is_refused(content, tmp_path: Path):
    torch.save(content, tmp_path / "foreign.pth")
    with pytest.raises(TrainerError, match="not a checkpoint of detr_tiny: it has no"):
        build_model("detr_tiny", 91, str(tmp_path / "foreign.pth"))


def test_weights_out_of_reach_say_which_file_to_put_where(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(download, "RETRY_SECONDS", 1.0)
    monkeypatch.setattr(urllib.request, "_opener", None)
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


@pytest.mark.parametrize("name", ["detr_tiny", "detr_lite0"])
def test_the_small_models_have_no_coco_weights(name: str):
    with pytest.raises(TrainerError, match=f"no COCO weights for {name}"):
        build_model(name, 2, "coco")
