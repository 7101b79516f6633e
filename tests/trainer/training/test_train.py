from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from tests.trainer.building import build_model
from tests.trainer.drawing import draw_dataset, write_annotations
from trainer import checkpoint
from trainer.config import TrainConfig
from trainer.data.fingerprint import file_digest
from trainer.errors import TrainerError
from trainer.training.train import train

ROOT = Path(__file__).parents[3]


def change(config: TrainConfig, **fields: object) -> TrainConfig:
    """The same configuration but for some fields."""
    return TrainConfig.create(**{**config.model_dump(exclude_unset=True), **fields})


def weights(path: Path) -> dict[str, torch.Tensor]:
    return checkpoint.read(path)["model"]


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    """Whether two state dicts are equal to the bit."""
    return set(a) == set(b) and all(torch.equal(a[name], b[name]) for name in a)


def start(config: TrainConfig) -> subprocess.Popen[str]:
    """Trains in a process of its own, whose log goes to a pipe."""
    settings = config.model_dump(mode="json", exclude_unset=True)
    code = (
        "import logging, sys, trainer;"
        "logging.basicConfig(level=logging.INFO, stream=sys.stdout, format='%(message)s');"
        f"from trainer.config import parse; trainer.train(parse({settings!r}))"
    )
    return subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True)


def wait_for(process: subprocess.Popen[str], words: str) -> None:
    """Reads the log up to a line with these words."""
    assert process.stdout is not None
    for line in process.stdout:
        if words in line:
            return
    pytest.fail(f"the training ended without saying {words!r}")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory):
    """A run of three epochs that nothing disturbed."""
    folder = tmp_path_factory.mktemp("finished")
    config = TrainConfig.create(
        dataset_dir=draw_dataset(folder / "dataset"),
        output_dir=folder / "output",
        model="detr_tiny",
        epochs=3,
        batch_size=2,
        image_size=64,
        max_size=64,
        warmup_steps=2,
        dropout=0.1,
        lr_drop=2,
        eval_every=2,
        checkpoint_every=1,
        device="cpu",
    )
    return config, train(config)


def test_the_log_has_one_line_an_epoch(finished):
    _, result = finished
    rows = [json.loads(line) for line in result.log.read_text().splitlines()]
    assert [row["epoch"] for row in rows] == [1, 2, 3]
    assert [row["step"] for row in rows] == [3, 6, 9]
    assert [row["images"] for row in rows] == [6, 6, 6]
    assert [row["lr"] for row in rows] == pytest.approx([5e-4, 5e-4, 5e-5])
    assert [row["lr_backbone"] for row in rows] == pytest.approx([5e-4, 5e-4, 5e-5])
    # The second epoch is due, the third is the last.
    assert [row["val"] is None for row in rows] == [True, False, False]
    names = {"loss", "loss_ce", "loss_bbox", "loss_giou"}
    for row in rows:
        assert set(row["train"]) == names | {"class_error", "cardinality_error", "grad_norm"}
        assert row["seconds"] > 0
        assert row["seconds_per_step"] > 0
    assert names | {"AP", "AP50"} <= set(rows[1]["val"])
    # The log and the summary mean the same by a step's time, which is without the validations.
    assert sum(3 * row["seconds_per_step"] for row in rows) == pytest.approx(9 * result.summary["seconds_per_step"])


def test_the_summary_names_what_was_trained(finished):
    config, result = finished
    summary = json.loads((config.output_dir / "train.json").read_text())
    assert summary == result.summary
    assert summary["classes"] == ["nut", "bolt"]
    assert summary["category_ids"] == [4, 17]
    assert summary["images"] == {"train": 6, "val": 3}
    assert (summary["epochs"], summary["steps"], summary["device"]) == (3, 9, "cpu")
    assert summary["best_epoch"] in (2, 3)
    given = config.model_dump(mode="json", exclude_unset=True)
    assert given.items() <= summary["config"].items()
    assert {"ema_decay", "patience"} <= {choice["field"] for choice in summary["recipe"]}
    assert not given.keys() & {choice["field"] for choice in summary["recipe"]}
    for choice in summary["recipe"]:
        assert summary["config"][choice["field"]] == choice["value"]
    assert summary["parameters"] > 1e5


def test_checkpoints_hold_what_is_needed(finished):
    _, result = finished
    last, best = checkpoint.read(result.last_checkpoint), checkpoint.read(result.best_checkpoint)
    for content in (last, best):
        assert content["class_names"] == ["nut", "bolt"]
        assert (content["family"], content["model_name"]) == ("detr", "detr_tiny")
        assert content["spec"]["num_classes"] == 2
        assert "AP50" in content["metrics"]
    assert last["epoch"] == 3
    assert "optimizer" in last
    assert "optimizer" not in best


def test_tensorboard_has_the_curves(finished):
    config, _ = finished
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(config.output_dir / "tensorboard"))
    events.Reload()
    assert [event.step for event in events.Scalars("train/loss")] == [3, 6, 9]
    assert [event.step for event in events.Scalars("val/AP50")] == [6, 9]


def test_a_finished_run_returns_at_once(finished):
    config, result = finished
    before = result.last_checkpoint.read_bytes(), result.log.read_text()
    again = train(config)
    assert again.summary == result.summary
    assert (result.last_checkpoint.read_bytes(), result.log.read_text()) == before


def test_the_same_seed_gives_the_same_weights_and_another_does_not(finished, tmp_path: Path):
    config, result = finished
    again = train(change(config, output_dir=tmp_path / "again"))
    assert same(weights(again.last_checkpoint), weights(result.last_checkpoint))
    other = train(change(config, output_dir=tmp_path / "other", seed=1, epochs=1))
    assert not same(weights(other.last_checkpoint), weights(result.last_checkpoint))


def test_a_killed_run_goes_on_to_the_same_weights(finished, tmp_path: Path):
    config, result = finished
    killed = change(config, output_dir=tmp_path / "killed", log_seconds=0.001)
    process = start(killed)
    wait_for(process, "epoch 2/3, step 2/3")
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert checkpoint.read(tmp_path / "killed" / "checkpoints" / "last.pth")["epoch"] == 1
    # A line of an epoch that is run again, and one that the kill cut short.
    log = tmp_path / "killed" / "log.jsonl"
    log.write_text(log.read_text() + '{"epoch": 2, "step": 6}\n{"epoch": 3, "st')
    resumed = train(killed)
    assert same(weights(resumed.last_checkpoint), weights(result.last_checkpoint))
    assert [json.loads(line)["epoch"] for line in log.read_text().splitlines()] == [1, 2, 3]
    for ours, theirs in zip(log.read_text().splitlines(), result.log.read_text().splitlines(), strict=True):
        assert json.loads(ours)["train"] == json.loads(theirs)["train"]


def test_sigterm_in_the_middle_of_an_epoch_loses_no_step(finished, tmp_path: Path):
    config, result = finished
    stopped = change(config, output_dir=tmp_path / "stopped", log_seconds=0.001)
    process = start(stopped)
    wait_for(process, "epoch 2/3, step 1/3")
    process.send_signal(signal.SIGTERM)
    assert process.wait() == 143
    position = checkpoint.read(tmp_path / "stopped" / "checkpoints" / "last.pth")["position"]
    assert 4 <= position["step"] < 9
    resumed = train(stopped)
    assert same(weights(resumed.last_checkpoint), weights(result.last_checkpoint))
    assert resumed.summary["steps"] == 9


def test_sigterm_has_its_old_meaning_after_a_run(config: TrainConfig):
    before = signal.getsignal(signal.SIGTERM)
    train(change(config, epochs=1))
    assert signal.getsignal(signal.SIGTERM) is before


def test_more_epochs_go_on_from_the_last(config: TrainConfig):
    train(change(config, epochs=1))
    result = train(change(config, epochs=2))
    assert [json.loads(line)["epoch"] for line in result.log.read_text().splitlines()] == [1, 2]


def test_an_output_folder_of_another_run_is_refused(config: TrainConfig, tmp_path: Path):
    train(change(config, epochs=1))
    with pytest.raises(TrainerError, match=r"num_queries 20, not 9; use another output folder .*, or remove .*output"):
        train(change(config, num_queries=9))
    for split in ("train", "val"):
        content = json.loads((config.dataset_dir / "annotations" / f"instances_{split}.json").read_text())
        content["categories"][0]["name"] = "screw"
        write_annotations(config.dataset_dir, split, content)
    with pytest.raises(TrainerError, match="classes nut, bolt, not nut, screw"):
        train(config)


def tree(folder: Path) -> dict[str, bytes]:
    """Everything in a folder but the lock, in which the holder's number stands."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != ".train.lock")
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def another_split(folder: Path) -> None:
    """The same classes, sizes and counts; one box is elsewhere."""
    path = folder / "annotations" / "instances_train.json"
    content = json.loads(path.read_text())
    content["annotations"][0]["bbox"][0] += 1
    path.write_text(json.dumps(content))


def another_validation(folder: Path) -> None:
    """One image less to validate on."""
    path = folder / "annotations" / "instances_val.json"
    content = json.loads(path.read_text())
    content["images"].pop()
    path.write_text(json.dumps(content))


def test_a_run_is_of_one_dataset_and_of_one_set_of_settings(config: TrainConfig):
    folder, config = config.output_dir, change(config, epochs=1)
    train(config)
    before = tree(folder)
    for fields, words in [
        ({"seed": 1}, "seed 0, not 1"),
        ({"lr": 0.3, "batch_size": 3}, "batch_size 2, not 3; lr 0.0005, not 0.3"),
        ({"model": "detr_resnet50"}, "model detr_tiny, not detr_resnet50"),
    ]:
        with pytest.raises(TrainerError, match=words) as caught:
            train(change(config, **fields))
        assert "\n" not in str(caught.value)
        assert f"--checkpoint {folder / 'checkpoints' / 'best.pth'}" in str(caught.value)
        assert tree(folder) == before
    for edit in (another_split, another_validation):
        kept = {path: path.read_bytes() for path in (config.dataset_dir / "annotations").iterdir()}
        edit(config.dataset_dir)
        with pytest.raises(TrainerError, match=r"trained on dataset \w{12}, and .*dataset holds \w{12}"):
            train(config)
        assert tree(folder) == before
        for path, content in kept.items():
            path.write_bytes(content)
    train(change(config, log_seconds=5, workers=0))
    assert tree(folder) == before


def test_a_run_starts_from_one_checkpoint(config: TrainConfig, tmp_path: Path):
    start = tmp_path / "start.pth"
    start.write_bytes(train(change(config, epochs=1)).best_checkpoint.read_bytes())
    tuned = change(config, output_dir=tmp_path / "tuned", pretrained=str(start), epochs=1)
    summary = train(tuned).summary
    # What it started from may be gone, but not be another by now.
    moved = start.rename(tmp_path / "moved.pth")
    assert train(tuned).summary == summary
    assert train(change(tuned, pretrained=str(moved))).summary == summary
    start.write_bytes(
        train(change(config, output_dir=tmp_path / "other", seed=1, epochs=1)).best_checkpoint.read_bytes()
    )
    with pytest.raises(TrainerError, match=r"weights to start from with the SHA-256 \w{12}, not \w{12}"):
        train(tuned)


def test_an_image_that_is_not_the_one_that_was_prepared_is_not_trained_on(config: TrainConfig):
    path = config.dataset_dir / "annotations" / "instances_train.json"
    content = json.loads(path.read_text())
    for image in content["images"]:
        image["sha256"] = file_digest(config.dataset_dir / image["file_name"])
    path.write_text(json.dumps(content))
    train(change(config, epochs=1))
    picture = config.dataset_dir / content["images"][3]["file_name"]
    Image.new("RGB", (64, 64), "pink").save(picture)
    with pytest.raises(TrainerError, match=f"image {picture} is not the one that was prepared"):
        train(change(config, epochs=2))


def test_a_damaged_checkpoint_is_not_resumed_from(config: TrainConfig):
    last = train(change(config, epochs=1)).last_checkpoint
    content = bytearray(last.read_bytes())
    content[len(content) // 2] ^= 1
    last.write_bytes(content)
    with pytest.raises(TrainerError, match=r"last\.pth cannot be read \(it is damaged.*delete it to start anew, or"):
        train(config)
    assert last.read_bytes() == content


def test_what_was_written_when_a_run_was_killed_goes(config: TrainConfig):
    folder = config.output_dir / "checkpoints"
    folder.mkdir(parents=True)
    (folder / ".last.pth.1234.tmp").write_bytes(b"half")
    train(change(config, epochs=1))
    assert sorted(path.name for path in folder.iterdir()) == ["best.pth", "last.pth"]


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_checkpoint(config: TrainConfig):
    last = train(change(config, epochs=1)).last_checkpoint
    content = checkpoint.read(last)
    good = content["model"]
    # Settings that are left out are those of the run.
    content["config"].update(lr=1e30, lr_backbone=1e30)
    checkpoint.save(last, content)
    with pytest.raises(TrainerError, match=r"^epoch \d+, step \d+: the (loss|gradient) is (nan|inf)") as caught:
        train(change(config, epochs=9, checkpoint_every=9))
    assert "lower lr" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert same(weights(config.output_dir / "checkpoints" / "last.pth"), good)


@pytest.mark.parametrize(
    ("split", "content", "words"),
    [
        ("train", {"images": [], "annotations": [], "categories": [{"id": 1, "name": "a"}]}, "0 images"),
        ("train", {"images": [], "annotations": [], "categories": []}, "no categories"),
    ],
)
def test_a_dataset_with_nothing_to_learn_is_refused(config: TrainConfig, split, content, words):
    write_annotations(config.dataset_dir, split, content)
    with pytest.raises(TrainerError, match=words):
        train(config)


def test_a_missing_file_is_named(config: TrainConfig):
    os.remove(config.dataset_dir / "annotations" / "instances_val.json")
    with pytest.raises(TrainerError, match=r"instances_val\.json does not exist"):
        train(config)


def test_without_validation_images_the_last_epoch_is_the_best(config: TrainConfig):
    content = json.loads((config.dataset_dir / "annotations" / "instances_val.json").read_text())
    write_annotations(config.dataset_dir, "val", {**content, "images": [], "annotations": []})
    result = train(change(config, epochs=2))
    assert [json.loads(line)["val"] for line in result.log.read_text().splitlines()] == [None, None]
    assert result.summary["best_epoch"] == 2
    assert result.summary["best_AP"] is None
    assert same(weights(result.best_checkpoint), weights(result.last_checkpoint))


def test_no_backbone_rate_freezes_the_backbone(config: TrainConfig):
    result = train(change(config, epochs=1, lr_backbone=0))
    torch.manual_seed(config.seed)
    start_weights = build_model("detr_tiny", 2, num_queries=config.num_queries, dropout=config.dropout).state_dict()
    after = weights(result.last_checkpoint)
    assert torch.equal(after["backbone.0.body.conv1.weight"], start_weights["backbone.0.body.conv1.weight"])
    assert not torch.equal(after["input_proj.weight"], start_weights["input_proj.weight"])


def test_training_starts_from_a_checkpoint(finished, tmp_path: Path):
    config, result = finished
    tuned = train(
        change(
            config,
            output_dir=tmp_path / "tuned",
            pretrained=str(result.best_checkpoint),
            epochs=1,
            lr=1e-12,
            lr_backbone=1e-12,
        )
    )
    before, after = weights(result.best_checkpoint), weights(tuned.last_checkpoint)
    assert torch.allclose(before["class_embed.weight"], after["class_embed.weight"], atol=1e-6)


def test_eight_images_are_learned_by_heart(tmp_path: Path):
    folder = draw_dataset(tmp_path / "dataset", train=8)
    # The same images, whose classes have exchanged their ids: they are known by name.
    content = json.loads((folder / "annotations" / "instances_train.json").read_text())
    exchanged = {4: 17, 17: 4}
    for row in content["categories"]:
        row["id"] = exchanged[row["id"]]
    for row in content["annotations"]:
        row["category_id"] = exchanged[row["category_id"]]
    write_annotations(folder, "val", content)
    config = TrainConfig.create(
        dataset_dir=folder,
        output_dir=tmp_path / "output",
        model="detr_tiny",
        epochs=150,
        batch_size=8,
        image_size=64,
        max_size=64,
        num_queries=8,
        augment="none",
        eval_every=50,
        checkpoint_every=150,
        device="cpu",
    )
    assert train(config).summary["best_AP50"] >= 0.95
