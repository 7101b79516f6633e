"""`model: auto`: which model it is, and that a run keeps it."""

from __future__ import annotations

import json
import re
import shutil
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.trainer.drawing import draw_dataset
from tests.trainer.models.hf.tiny import save_tiny
from tests.trainer.models.hub import nowhere, refusing
from trainer import checkpoint
from trainer.config import TrainConfig
from trainer.errors import TrainerError
from trainer.models.choice import MEDIUM, NANO, Published, Surroundings, choose_model
from trainer.models.choice import SMALL as SMALL_ONE
from trainer.models.hf import source
from trainer.training.train import train

SMALL = {"dim": 32, "feedforward": 32, "num_queries": 8, "denoising_queries": 8, "image_size": 64, "max_size": 64}
NAME = NANO.model.removeprefix("hf:")


def configure(dataset_dir: Path, output_dir: Path, **fields: object) -> TrainConfig:
    fixed = {"epochs": 1, "batch_size": 3, "device": "cpu", "workers": 0, "image_size": 64, "max_size": 64}
    return TrainConfig.create({**fixed, **fields}, dataset_dir=dataset_dir, output_dir=output_dir)


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    """A dataset of images that are large enough for a published detector."""
    return draw_dataset(tmp_path / "photographs", size=(200, 180))


@pytest.mark.parametrize(
    ("there", "asked", "model"),
    [
        (Surroundings(gpu=None), [NANO], NANO.model),
        (Surroundings(gpu="NVIDIA T4", gpu_memory=15.8), [MEDIUM], MEDIUM.model),
        (Surroundings(gpu="NVIDIA K2000", gpu_memory=4.1), [SMALL_ONE], SMALL_ONE.model),
        (Surroundings(gpu="NVIDIA T4", gpu_memory=15.8, shorter_side=96), [], "ddq_lite0"),
        (Surroundings(gpu=None, shorter_side=480, most_boxes=250), [], "ddq_lite0"),
    ],
)
def test_what_it_is_depends_on_what_is_there(there: Surroundings, asked: list[Published], model: str) -> None:
    wanted: list[Published] = []
    choice = choose_model(there, lambda published: wanted.append(published))
    assert (wanted, choice.model) == (asked, model)
    if asked:
        assert asked[0].license in choice.reason
        refused = choose_model(there, lambda _: "there is no network")
        assert refused.model == "ddq_lite0"
        assert refused.reason.startswith("there is no network; ")


def test_a_published_model_is_fetched_and_kept(
    photographs: Path,
    tmp_path: Path,
    hub_of: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO", logger="trainer")
    folder = save_tiny("d_fine", tmp_path / "published")
    hub_of(NAME, {path.name: path.read_bytes() for path in folder.iterdir()})
    config = configure(photographs, tmp_path / "run")
    assert config.model == NANO.model
    assert config.lr == 2e-4
    assert f"{NANO.model} (15 MB, Apache-2.0) is wanted" in caplog.text
    # Nothing is trained yet, and another attempt sees no hub and has an empty cache.
    monkeypatch.setenv("HF_ENDPOINT", nowhere())
    with monkeypatch.context() as patch:
        patch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "empty"))
        assert configure(photographs, tmp_path / "run") == config
        with pytest.raises(TrainerError, match="cannot be reached"):
            train(config)
    summary = train(config).summary
    assert summary["recipe"][0]["value"] == NANO.model
    assert "no CUDA GPU" in summary["recipe"][0]["reason"]
    # Another run finds it in the cache, a third one not.
    assert configure(photographs, tmp_path / "other").model == NANO.model
    shutil.rmtree(tmp_path / "cache")
    assert configure(photographs, tmp_path / "third").model == "ddq_lite0"
    assert train(configure(photographs, tmp_path / "run", epochs=2)).summary["epochs"] == 2


@pytest.mark.parametrize(
    ("refuse", "words"),
    [
        (refusing(401), r"asks for a token that may read the model \(401\)"),
        (refusing(404, X_Error_Code="RepoNotFound"), "has no such model, or it is private"),
        (refusing(500), r"answers with an error \(500\)"),
        ("hang", "does not answer"),
        ("away", "cannot be reached"),
        ("offline", "HF_HUB_OFFLINE is set, and the model is not in the cache"),
    ],
)
def test_a_hub_that_does_not_give_it_is_no_obstacle(
    refuse: Any,
    words: str,
    photographs: Path,
    tmp_path: Path,
    hub_of: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    over = threading.Event()
    monkeypatch.setattr(source, "PROBE", 1 if refuse == "hang" else source.SILENCE)
    files = {"config.json": b"{}", "model.safetensors": b"weights"}
    hub_of(NAME, files, refuse if callable(refuse) else lambda _: refuse == "hang" and not over.wait())
    if refuse == "away":
        monkeypatch.setenv("HF_ENDPOINT", nowhere())
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", refuse == "offline")
    try:
        config = configure(photographs, tmp_path / "run")
    finally:
        over.set()
    assert config.model == "ddq_lite0"
    assert re.search(words, config.model_reason)
    assert "\n" not in config.model_reason
    # The hub is back, and the run stays what it is.
    monkeypatch.setattr(source, "PROBE", source.SILENCE)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    hub_of(NAME, files)
    assert configure(photographs, tmp_path / "run") == config
    assert configure(photographs, tmp_path / "new").model == NANO.model


def test_processes_that_see_different_things_take_the_same(
    photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    both, problems = threading.Barrier(2), iter([None, "there is no network"])

    def obtain(_: str) -> str | None:
        both.wait()
        return next(problems)

    monkeypatch.setattr(source, "obtain", obtain)
    with ThreadPoolExecutor(2) as pool:
        runs = [pool.submit(configure, photographs, tmp_path / "run") for _ in range(2)]
        first, second = (run.result() for run in runs)
    assert first == second


def test_who_names_weights_a_setting_of_ours_or_a_model_is_not_asked_about_a_hub(
    photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def obtain(_: str) -> str:
        raise AssertionError("the hub was asked")

    monkeypatch.setattr(source, "obtain", obtain)
    assert configure(photographs, tmp_path / "run", pretrained="none").model == "ddq_lite0"
    assert configure(photographs, tmp_path / "own", denoising_queries=50).model == "ddq_lite0"
    assert configure(photographs, tmp_path / "other", model="detr_resnet50").model == "detr_resnet50"
    assert not (tmp_path / "other").exists()


def test_a_setting_that_the_chosen_model_lacks(photographs: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainerError, match=r"unknown hyperparameter 'nms_iou'; .*; `auto` chose ddq_lite0: name the"):
        configure(photographs, tmp_path / "run", nms_iou=0.4)


def test_a_run_keeps_the_model_that_was_chosen_for_it(dataset_dir: Path, tmp_path: Path) -> None:
    config = configure(dataset_dir, tmp_path / "run", **SMALL)
    assert config.model == "ddq_lite0"
    summary = train(config).summary
    reason = "published models have no denoising_queries and no dim and no feedforward and no num_queries"
    assert summary["recipe"][0] == {"field": "model", "value": "ddq_lite0", "reason": reason}

    # As if it had been chosen on another machine, for other reasons.
    path = tmp_path / "run" / "checkpoints" / "last.pth"
    content = checkpoint.read(path)
    content["config"].update(model="detr_resnet50", model_reason="a GPU can train it")
    content.update(spec={"model": "detr_resnet50"}, family="detr")
    torch.save(content, path)
    resumed = configure(dataset_dir, tmp_path / "run")
    assert (resumed.model, resumed.model_reason) == ("detr_resnet50", "a GPU can train it")
    with pytest.raises(TrainerError, match="was trained with model detr_resnet50, not ddq_lite0"):
        train(configure(dataset_dir, tmp_path / "run", model="ddq_lite0", **SMALL))


def test_a_checkpoint_to_start_from_decides(dataset_dir: Path, tmp_path: Path) -> None:
    start = tmp_path / "start.pth"
    checkpoint.save(start, {"family": "fasterrcnn", "spec": {"model": "fasterrcnn_lite0"}, "model": {}})
    config = configure(dataset_dir, tmp_path / "run", pretrained=str(start))
    assert config.model == "fasterrcnn_lite0"
    assert str(start) in config.model_reason
    assert configure(dataset_dir, tmp_path / "run", pretrained=str(start), model="ddq_lite0").model == "ddq_lite0"


def test_nobody_but_the_program_gives_the_reason() -> None:
    with pytest.raises(TrainerError, match="hyperparameter 'model_reason' is set by the program"):
        TrainConfig.create(json.loads('{"model_reason": "mine"}'), dataset_dir="data", output_dir="out")
