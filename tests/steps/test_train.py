"""Training as a step: what it leaves, what it starts from, and what it refuses."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from steps.prepare import prepare_data
from steps.train import train_model
from tests.conftest import write_coco_dump
from tests.steps.refusals import refused
from trainer.config import config_class

SMALL = "image_size: 64\nmax_size: 64\nnum_queries: 5\nlog_seconds: 0.5"


@pytest.fixture
def dataset_dir(tmp_path: Path, coco_dump: Callable[..., Path]) -> Path:
    coco_dump(tmp_path / "dataset")
    prepare_data(tmp_path / "dataset")
    return tmp_path / "dataset"


@pytest.fixture
def output_dir(tmp_path: Path) -> Path:
    return tmp_path / "output"


def train(dataset_dir: Path, output_dir: Path, **arguments: Any) -> dict[str, Any]:
    settings = {"model": "detr_tiny", "epochs": 1, "hyperparameters": SMALL, **arguments}
    return train_model(dataset_dir, output_dir, **settings)


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output folder of a run of one epoch."""
    folder = tmp_path_factory.mktemp("trained")
    write_coco_dump(folder / "dataset")
    prepare_data(folder / "dataset")
    (folder / "summary.json").write_text(json.dumps(train(folder / "dataset", folder / "output")))
    return folder / "output"


@pytest.fixture
def weights(trained: Path) -> bytes:
    return (trained / "checkpoints" / "best.pth").read_bytes()


def test_leaves_what_it_promises(trained: Path) -> None:
    for name in ("checkpoints/best.pth", "checkpoints/last.pth"):
        assert (trained / name).stat().st_size > 0
    summary = json.loads((trained.parent / "summary.json").read_text())
    assert json.loads((trained / "train.json").read_text()) == summary
    epochs = [json.loads(line) for line in (trained / "log.jsonl").read_text().splitlines()]
    assert [record["epoch"] for record in epochs] == [1]


def test_two_processes_share_the_work_and_refuse_with_one_status(dataset_dir: Path, output_dir: Path) -> None:
    command = [sys.executable, "-m", "steps", "train", "--dataset-dir", dataset_dir, "--output-dir", output_dir]
    command += ["--model", "detr_tiny", "--epochs", "1", "--processes", "2", "--hyperparameters", SMALL]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert json.loads((output_dir / "train.json").read_text())["processes"] == 2

    (dataset_dir / "annotations" / "instances_val.json").unlink()
    result = subprocess.run([*command, "--batch-size", "2"], capture_output=True, text=True)
    assert result.returncode == 2, result.stderr
    assert "instances_val.json is not there" in result.stderr
    assert "Traceback" not in result.stderr


class TestCheckpoint:
    """Fine-tuning starts from weights in the bucket or on this machine."""

    def test_fine_tuning(
        self,
        bucket: str,
        put: Callable[[str, bytes], None],
        weights: bytes,
        dataset_dir: Path,
        output_dir: Path,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        put("models/a b#1.pth", weights)
        with caplog.at_level(logging.INFO):
            summary = train(dataset_dir, output_dir, checkpoint="models/a b#1.pth")
        assert f"starting from the checkpoint s3://{bucket}/models/a b#1.pth" in caplog.text
        assert "tensors from" in caplog.text
        assert (output_dir / "checkpoints" / "best.pth").is_file()
        # A backbone that knows something learns more slowly than the rest, whoever named its weights.
        config = config_class("detr_tiny")(
            dataset_dir=dataset_dir, output_dir=output_dir, model="detr_tiny", pretrained="a.pth"
        )
        assert summary["config"]["lr_backbone"] == config.lr_backbone < config.lr

    def test_with_auto_it_decides_about_the_model_and_its_settings(
        self, no_aws: None, trained: Path, dataset_dir: Path, output_dir: Path
    ) -> None:
        start = str(trained / "checkpoints" / "best.pth")
        summary = train(dataset_dir, output_dir, model="auto", hyperparameters=f"{SMALL}\ndropout: 0", checkpoint=start)
        assert (summary["model"], summary["config"]["dropout"]) == ("detr_tiny", 0)

    # Which file is taken shows where its content is refused, without the time of a training.
    @pytest.mark.parametrize(
        ("key", "checkpoint", "namespace"),
        [
            ("models/a.pth", "models/a.pth", "team"),
            ("models/a.pth", "s3://{bucket}/models/a.pth", "team"),
            ("runs/1/checkpoints/best.pth", "/runs/1/", ""),
            ("runs/1/best.pth", "runs/1", ""),
            ("team/runs/1/checkpoints/best.pth", "runs/1", "team"),
        ],
    )
    def test_in_the_bucket(
        self,
        bucket: str,
        put: Callable[[str, bytes], None],
        dataset_dir: Path,
        output_dir: Path,
        caplog: pytest.LogCaptureFixture,
        key: str,
        checkpoint: str,
        namespace: str,
    ) -> None:
        put(key, b"no weights")
        with caplog.at_level(logging.INFO), refused(output_dir, Path(key).name):
            train(dataset_dir, output_dir, checkpoint=checkpoint.format(bucket=bucket), namespace=namespace)
        assert f"starting from the checkpoint s3://{bucket}/{key}" in caplog.text

    @pytest.mark.parametrize("place", ["a.pth", "run/checkpoints/best.pth", "run/best.pth"])
    def test_on_this_machine(
        self, no_aws: None, dataset_dir: Path, output_dir: Path, tmp_path: Path, place: str
    ) -> None:
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / place).write_bytes(b"no weights")
        with refused(tmp_path / place):
            train(dataset_dir, output_dir, checkpoint=str(tmp_path / Path(place).parts[0]))

    def test_auto_is_the_checkpoint_s_model_with_its_settings(
        self, no_aws: None, trained: Path, dataset_dir: Path, output_dir: Path
    ) -> None:
        """`dropout` is DETR's, which `auto` is not on a machine without a GPU."""
        given = {"model": "auto", "checkpoint": str(trained)}
        with refused("unknown hyperparameter 'dropouts'", "dropout"):
            train(dataset_dir, output_dir, **given, hyperparameters=f"{SMALL}\ndropouts: 0.05")
        summary = train(dataset_dir, output_dir, **given, hyperparameters=f"{SMALL}\ndropout: 0.05")
        assert (summary["model"], summary["config"]["dropout"]) == ("detr_tiny", 0.05)

    def test_absent_in_the_bucket(self, bucket: str, dataset_dir: Path, output_dir: Path) -> None:
        with refused("checkpoint runs/1", f"s3://{bucket}/runs/1", f"s3://{bucket}/team/runs/1"):
            train(dataset_dir, output_dir, checkpoint="runs/1", namespace="team")

    def test_absent_on_this_machine(self, no_aws: None, dataset_dir: Path, output_dir: Path) -> None:
        with refused("checkpoint /no/such.pth"):
            train(dataset_dir, output_dir, checkpoint="/no/such.pth")

    def test_whole_bucket_is_none(self, bucket: str, dataset_dir: Path, output_dir: Path) -> None:
        with refused("checkpoint s3://", f"s3://{bucket}"):
            train(dataset_dir, output_dir, checkpoint=f"s3://{bucket}/")


class TestRefusals:
    @pytest.mark.parametrize(
        ("hyperparameters", "words"),
        [
            ("lr: [", ["--hyperparameters is not readable YAML"]),
            ("lr: 1\n\tb: 2", ["--hyperparameters is not readable YAML", "line 2"]),
            ("just words", ["--hyperparameters is 'just words'", "'name: value'"]),
            ("- lr\n- 3", ["--hyperparameters is", "'name: value'"]),
            ("learning_rate: 1", ["unknown hyperparameter 'learning_rate'"]),
            ("num_querys: 1", ["'num_querys'", "num_queries"]),
            ("lr: fast", ["'lr'", "fast"]),
            ("lr: -1", ["'lr'", "-1"]),
            ("output_dir: /elsewhere", ["'output_dir'"]),
            ("{3: 4}", ["'3'"]),
        ],
    )
    def test_hyperparameters(
        self, no_aws: None, dataset_dir: Path, output_dir: Path, hyperparameters: str, words: list[str]
    ) -> None:
        with refused(*words):
            train(dataset_dir, output_dir, hyperparameters=hyperparameters)
        assert not output_dir.exists()

    @pytest.mark.parametrize("epochs", [0, -1, "abc", 1.5])
    def test_epochs(self, no_aws: None, dataset_dir: Path, output_dir: Path, epochs: Any) -> None:
        with refused(f"'epochs' is {epochs!r}"):
            train(dataset_dir, output_dir, epochs=epochs)

    def test_model(self, no_aws: None, dataset_dir: Path, output_dir: Path) -> None:
        with refused("'detr_resnet5'", "detr_resnet50"):
            train(dataset_dir, output_dir, model="detr_resnet5")

    def test_dump_that_is_not_prepared(
        self, no_aws: None, tmp_path: Path, output_dir: Path, coco_dump: Callable[..., Path]
    ) -> None:
        coco_dump(tmp_path / "raw")
        with refused("instances_train.json is not there", "prepare-data makes it"):
            train(tmp_path / "raw", output_dir)
