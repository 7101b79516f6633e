"""Two processes, started by torchrun, against one that sees the same images a step."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.trainer.building import build_model
from tests.trainer.drawing import draw_dataset
from trainer import checkpoint
from trainer.config import TrainConfig
from trainer.errors import TrainerError
from trainer.training.distributed import Processes
from trainer.training.train import train

ROOT = Path(__file__).parents[3]
PROGRAM = """
import json, logging, os, sys
from trainer.config import parse
from trainer.training.train import train
logging.basicConfig(level=logging.INFO, stream=sys.stdout, format=os.environ["RANK"] + " %(message)s")
train(parse(json.loads(sys.argv[1])))
"""

ONE_STEP = """
import json, sys
import torch
from tests.trainer.building import build_model, random_images
from trainer.config import parse
from trainer.data.batch import Batch
from trainer.device import Arithmetic
from trainer.training.distributed import Processes
from trainer.training.train import _new_state, _open_datasets
from trainer.training.train_step import Learner

device, config = torch.device("cpu"), parse(json.loads(sys.argv[1]))
with Processes.from_environment().connect(device) as processes:
    torch.manual_seed(processes.rank)
    state = _new_state(config, _open_datasets(config)[0], device, Arithmetic("fp32", "cpu"), processes, None)
    passes, images = [], processes.rank + 1
    state.model.register_forward_hook(lambda *_: passes.append(1))
    target = {"labels": torch.tensor([1]), "boxes": torch.full((1, 4), 0.5)}
    batch = Batch(random_images(images, 3, 64, 64), torch.zeros(images, 64, 64, dtype=torch.bool), [target] * images)
    average = sum(value.double().abs().sum().item() for value in state.average.model.state_dict().values())
    Learner(state.model.train(), state.optimizer, device, 0, processes=processes, parts=2).step(batch)
    found = processes.gather([len(passes), average])
    if processes.is_main:
        print("found", json.dumps(found))
"""


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> TrainConfig:
    """Three epochs over seven images, from weights with frozen statistics, which do not depend on who sees what."""
    folder = tmp_path_factory.mktemp("distributed")
    torch.manual_seed(0)
    model = build_model("detr_tiny", 2, num_queries=8, frozen_norm=True)
    content = {"model": model.state_dict(), "family": "detr", "spec": model.spec, "class_names": ["nut", "bolt"]}
    checkpoint.save(folder / "start.pth", content)
    return TrainConfig.create(
        dataset_dir=draw_dataset(folder / "dataset", train=8, val=5),
        output_dir=folder / "one",
        model="detr_tiny",
        pretrained=str(folder / "start.pth"),
        num_queries=8,
        epochs=3,
        batch_size=4,
        image_size=64,
        max_size=64,
        eval_every=1,
        checkpoint_every=1,
        workers=0,
        device="cpu",
    )


def change(config: TrainConfig, **fields: Any) -> TrainConfig:
    return TrainConfig.create(**{**config.model_dump(exclude_unset=True), **fields})


def torchrun(config: TrainConfig, program: Path, text: str = PROGRAM) -> subprocess.Popen[str]:
    """Trains in two processes of two images a step each, or runs another program in them."""
    program.write_text(text)
    settings = json.dumps(config.model_dump(mode="json", exclude_unset=True))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    return subprocess.Popen([*command, str(program), settings], cwd=ROOT, stdout=subprocess.PIPE, text=True, env=_env())


def _env() -> dict[str, str]:
    import os

    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def rows(config: TrainConfig) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (config.output_dir / "log.jsonl").read_text().splitlines()]


def test_two_processes_learn_as_one_does(config: TrainConfig, tmp_path: Path):
    train(config)
    two = change(config, output_dir=tmp_path / "two", batch_size=2)
    process = torchrun(two, tmp_path / "program.py")
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    for alone, together in zip(rows(config), rows(two), strict=True):
        assert together["step"] == alone["step"]
        assert together["images"] == alone["images"]
        for part in ("train", "val"):
            for name in ("loss", "loss_ce", "loss_bbox", "loss_giou"):
                assert together[part][name] == pytest.approx(alone[part][name], rel=1e-3), (alone["epoch"], part, name)
    # Each validation image was looked at once: twice would show in the recall and once less in the precision.
    assert rows(two)[-1]["val"]["AP"] == pytest.approx(rows(config)[-1]["val"]["AP"], abs=1e-3)
    assert not [line for line in output.splitlines() if line.startswith("1 ")]


def test_shares_of_one_image_and_of_two_take_as_many_passes_and_averages_start_equal(
    config: TrainConfig, tmp_path: Path
):
    random = change(config, output_dir=tmp_path / "step", pretrained="none", ema_decay=0.9)
    output, _ = torchrun(random, tmp_path / "program.py", ONE_STEP).communicate(timeout=300)
    (passes, average), (other_passes, other_average) = json.loads(output.split("found", 1)[1].splitlines()[0])
    assert passes == other_passes == 1
    assert average == other_average


def test_both_leave_together_and_go_on_together(config: TrainConfig, tmp_path: Path):
    whole = change(config, output_dir=tmp_path / "whole", batch_size=2, log_seconds=0.001)
    assert torchrun(whole, tmp_path / "program.py").wait(300) == 0
    cut = change(whole, output_dir=tmp_path / "cut")
    process = torchrun(cut, tmp_path / "program.py")
    assert process.stdout is not None
    for line in process.stdout:
        if "epoch 2/3, step 1/2" in line:
            process.send_signal(signal.SIGTERM)
            break
    process.communicate(timeout=300)
    position = checkpoint.read(cut.output_dir / "checkpoints" / "last.pth")["position"]
    assert 3 <= position["step"] < 6
    assert torchrun(cut, tmp_path / "program.py").wait(300) == 0
    ours, theirs = (checkpoint.read(c.output_dir / "checkpoints" / "last.pth")["model"] for c in (cut, whole))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.parametrize(
    ("variables", "words"), [({"RANK": "first"}, "RANK is 'first'"), ({"RANK": "2", "WORLD_SIZE": "2"}, "not below")]
)
def test_an_environment_that_makes_no_sense_is_refused(variables, words, monkeypatch: pytest.MonkeyPatch):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(TrainerError, match=words):
        Processes.from_environment()
