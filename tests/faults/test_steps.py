"""Prepare, train and evaluate, disturbed: each ends with the undisturbed bytes after a retry, or in one clear line."""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pipelines.local.s3_server import S3Server
from steps.dump.target import LOCK
from tests.conftest import write_coco_dump
from tests.faults.lab import (
    Done,
    Step,
    evaluated,
    flip,
    gone,
    kept,
    length,
    moments,
    prepared,
    small_disk,
    trained,
)
from tests.faults.matrix import Record
from tests.faults.proxy import Fault, no_fault, proxy
from tests.faults.test_transfer import for_seconds, on
from tests.processes import held
from tests.steps.storage.test_verified import put_in_parts
from tests.steps.test_families import SETTINGS, model_of

pytestmark = pytest.mark.faults

IMAGES = 12
EPOCHS = 2


@dataclass(frozen=True)
class Lab:
    """A prepared dataset and a run that nothing disturbed, with what they are compared by."""

    folder: Path
    model: str
    settings: str
    prepared: dict[str, bytes]
    trained: dict[str, Any]
    evaluated: dict[str, Any]
    seconds: dict[str, float]

    @property
    def data(self) -> Path:
        return self.folder / "data"

    @property
    def run(self) -> Path:
        return self.folder / "run"

    def copy(self, folder: Path) -> Lab:
        """The same in another place, prepared anew, without a run."""
        write_coco_dump(folder / "data", images=IMAGES)
        copy = Lab(folder, self.model, self.settings, self.prepared, self.trained, self.evaluated, self.seconds)
        assert copy.prepare().run().status == 0
        return copy

    def prepare(self, *more: object) -> Step:
        return Step(self.folder / "prepare.log", "prepare", "--dataset-dir", self.data, *more)

    def train(self, *more: object, into: Path | None = None, environment: dict[str, str] | None = None) -> Step:
        given = ["--model", self.model, "--epochs", EPOCHS, "--hyperparameters", self.settings, "--batch-size", 2]
        folders = ["--dataset-dir", self.data, "--output-dir", into or self.run]
        return Step(self.folder / "train.log", "train", *folders, *given, *more, environment=environment)

    def evaluate(self, *more: object, into: Path | None = None) -> Step:
        folders = ["--dataset-dir", self.data, "--output-dir", into or self.run]
        return Step(self.folder / "evaluate.log", "evaluate", *folders, *more)


def set_up(folder: Path, family: str) -> Lab:
    """A lab for a family of models."""
    small = {"enc_layers": 1, "dec_layers": 1, "num_queries": 5} if family == "detr" else {}
    given = {name: value for name, value in SETTINGS.items() if name != "batch_size"} | {"log_seconds": 60, **small}
    lab = Lab(folder, "detr_tiny" if family == "detr" else model_of(family, folder), json.dumps(given), {}, {}, {}, {})
    write_coco_dump(lab.data, images=IMAGES)
    seconds = {"warm": length(lab.prepare())}
    seconds |= {name: length(getattr(lab, name)()) for name in ("prepare", "train", "evaluate")}
    found = prepared(lab.data), trained(lab.run), evaluated(lab.run)
    return Lab(folder, lab.model, lab.settings, *found, seconds)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    return set_up(tmp_path_factory.mktemp("lab"), "detr")


@pytest.fixture
def copy(lab: Lab, tmp_path: Path) -> Lab:
    """A lab to spoil, with a run that is finished and evaluated."""
    copy = lab.copy(tmp_path)
    shutil.copytree(lab.run, copy.run)
    return copy


SIGNALS = {"kill -9": signal.SIGKILL, "SIGTERM": signal.SIGTERM}
# One in every run of the tests, all of them where there is time.
TRIES = [1, pytest.param(8, marks=pytest.mark.slow)]


def ended(done: Done, fault: str) -> bool:
    """Whether a step that was sent a signal ended as it should, or before it came."""
    # Before the first line of Python and after the last one SIGTERM ends a process by itself: 143 to a shell as well.
    stopped = {"kill -9": (-signal.SIGKILL,), "SIGTERM": (143, -signal.SIGTERM)}[fault]
    return done.status == 0 or (done.status in stopped and "Traceback" not in done.text)


def said(same: bool) -> str:
    return "the undisturbed bytes after a retry" if same else "other bytes after a retry"


@pytest.mark.parametrize("fault", SIGNALS)
@pytest.mark.parametrize("tries", TRIES)
def test_prepare_interrupted(lab: Lab, tmp_path: Path, record: Record, fault: str, tries: int) -> None:
    for number, moment in enumerate(moments(tries, lab.seconds["prepare"], f"prepare {fault} {tries}")):
        copy = lab.copy(tmp_path / str(number))
        done = copy.prepare().interrupted(moment, SIGNALS[fault])
        assert ended(done, fault), done
        again = copy.prepare().run()
        same = prepared(copy.data) == lab.prepared
        record("prepare", fault, said(same), again.status == 0 and same)


def check_training(lab: Lab, folder: Path, record: Record, fault: str, tries: int) -> None:
    for number, moment in enumerate(moments(tries, lab.seconds["train"], f"train {lab.model} {fault} {tries}")):
        step = lab.train(into=folder / str(number))
        done = step.interrupted(moment, SIGNALS[fault])
        assert ended(done, fault), done
        if done.status == 143:
            assert "asked to stop; the run resumes from" in done.text or "stopped by SIGTERM" in done.text
        again = step.run()
        same = again.status == 0 and trained(folder / str(number)) == lab.trained
        record("train", fault, said(same) if not again.status else str(again), same)


@pytest.mark.parametrize("fault", SIGNALS)
@pytest.mark.parametrize("tries", TRIES)
def test_train_interrupted(lab: Lab, tmp_path: Path, record: Record, fault: str, tries: int) -> None:
    check_training(lab, tmp_path, record, fault, tries)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["ddq", "fasterrcnn", "hf"])
def test_train_of_any_family_interrupted(tmp_path: Path, record: Record, family: str) -> None:
    lab = set_up(tmp_path / "lab", family)
    for fault in SIGNALS:
        check_training(lab, tmp_path / fault, record, fault, 2)


@pytest.mark.parametrize("fault", SIGNALS)
@pytest.mark.parametrize("tries", TRIES)
def test_evaluate_interrupted(copy: Lab, record: Record, fault: str, tries: int) -> None:
    for moment in moments(tries, copy.seconds["evaluate"], f"evaluate {fault} {tries}"):
        done = copy.evaluate().interrupted(moment, SIGNALS[fault])
        assert ended(done, fault), done
        again = copy.evaluate().run()
        same = again.status == 0 and evaluated(copy.run) == copy.evaluated
        record("evaluate", fault, said(same), same)


def test_full_disk(copy: Lab, tmp_path: Path, record: Record) -> None:
    """By a limit to the size of a file, which every machine has."""
    done = copy.prepare().run(largest=2000)
    same = copy.prepare().run().status == 0 and prepared(copy.data) == copy.prepared
    record("prepare", "full disk", f"{done}; {said(same)}", done.refused and "instances_" in done.line and same)

    done = copy.evaluate().run(largest=2000)
    same = copy.evaluate().run().status == 0 and evaluated(copy.run) == copy.evaluated
    record("evaluate", "full disk", f"{done}; {said(same)}", done.refused and same)

    last = copy.run / "checkpoints" / "last.pth"
    step = copy.train(into=tmp_path / "full")
    done = step.run(largest=last.stat().st_size * 3 // 4)
    rows = len((tmp_path / "full" / "log.jsonl").read_text().splitlines())
    assert (rows, (tmp_path / "full" / "checkpoints" / "last.pth").exists()) == (1, False)
    same = step.run().status == 0 and trained(tmp_path / "full") == copy.trained
    record("train", "full disk", f"{done}; {said(same)}", done.refused and same)


@pytest.mark.slow
def test_disk_that_fills_up_while_training(lab: Lab, tmp_path: Path, record: Record) -> None:
    """With every size of disk that is too small: whatever is being written when it is full."""
    whole = sum(path.stat().st_size for path in lab.run.rglob("*") if path.is_file())
    for share in (0.01, 0.2, 0.5, 0.8, 1.0, 1.3):
        with small_disk(tmp_path / f"disk {share}", int(share * whole)) as mounted:
            if not mounted:
                pytest.skip("no disk may be mounted here; the limit to the size of a file is tried in its place")
            folder = tmp_path / f"disk {share}" / "run"
            done = lab.train(into=folder).run()
            assert done.status == 0 or done.refused, done
            shutil.copytree(folder, tmp_path / f"more space {share}")
        again = lab.train(into=tmp_path / f"more space {share}").run()
        same = again.status == 0 and trained(tmp_path / f"more space {share}") == lab.trained
        record("train", "full disk", f"{done}; {said(same)}", same)


def refuses(step: Step, record: Record, name: str, fault: str, *words: str) -> Done:
    """Run a step that has to refuse with these words."""
    done = step.run()
    record(name, fault, str(done), done.refused and all(word in done.line for word in words))
    return done


def test_flipped_bit(copy: Lab, tmp_path: Path, record: Record) -> None:
    train_file, val_file = (copy.data / "annotations" / f"instances_{split}.json" for split in ("train", "val"))
    pictures = {
        split: Path(json.loads(path.read_text())["images"][0]["file_name"])
        for split, path in (("train", train_file), ("val", val_file))
    }
    best, last = (copy.run / "checkpoints" / f"{name}.pth" for name in ("best", "last"))
    new_run = copy.train(into=tmp_path / "new")
    for path, step, name, fault in [
        (pictures["train"], new_run, "train", "one flipped bit, small"),
        (train_file, new_run, "train", "one flipped bit, small"),
        (last, copy.train(), "train", "one flipped bit, small"),
        (pictures["val"], copy.evaluate(), "evaluate", "one flipped bit, small"),
        (val_file, copy.evaluate(), "evaluate", "one flipped bit, small"),
        (best, copy.evaluate(), "evaluate", "one flipped bit, small"),
    ]:
        with kept(path):
            flip(path, 0.5)
            refuses(step, record, name, fault, path.name)
    same = copy.evaluate().run().status == 0 and evaluated(copy.run) == copy.evaluated
    assert same
    assert trained(copy.run) == copy.trained

    for damaged, place in ((train_file, 12), (train_file, 2000), (val_file, 12)):
        content = bytearray(damaged.read_bytes())
        # By its first words the step knows a file as its own.
        content[place] ^= 1
        damaged.write_bytes(content)
        same = copy.prepare().run().status == 0 and prepared(copy.data) == copy.prepared
        record("prepare", "one flipped bit, small", said(same), same)


def test_vanished(copy: Lab, tmp_path: Path, record: Record) -> None:
    train_file, val_file = (copy.data / "annotations" / f"instances_{split}.json" for split in ("train", "val"))
    new_run = copy.train(into=tmp_path / "new")
    for path, step, name, fault in [
        (copy.data / "annotations" / "instances_default.json", copy.prepare(), "prepare", "vanished"),
        (copy.data / "images" / "0003.png", copy.prepare(), "prepare", "vanished"),
    ]:
        with gone(path):
            refuses(step, record, name, fault)
        assert copy.prepare().run().status == 0
        assert prepared(copy.data) == copy.prepared
    val_picture = Path(json.loads(val_file.read_text())["images"][0]["file_name"])
    train_picture = Path(json.loads(train_file.read_text())["images"][0]["file_name"])
    for path, step, name, fault in [
        (train_file, new_run, "train", "vanished"),
        (train_picture, new_run, "train", "vanished"),
        (val_file, copy.evaluate(), "evaluate", "vanished"),
        (val_picture, copy.evaluate(), "evaluate", "vanished"),
        (copy.run / "checkpoints" / "best.pth", copy.evaluate(), "evaluate", "vanished"),
    ]:
        with gone(path):
            refuses(step, record, name, fault, path.name)


def test_changed(copy: Lab, tmp_path: Path, record: Record) -> None:
    """Another seed, and with it another split of the same images."""
    done = copy.prepare("--seed", "7").run()
    other = prepared(copy.data)
    record("prepare", "changed settings", "the split that was asked for", done.status == 0 and other != copy.prepared)
    before = trained(copy.run)
    refuses(copy.train(), record, "train", "changed", "was trained on dataset")
    refuses(copy.evaluate(), record, "evaluate", "changed", "was trained with dataset")
    assert copy.prepare().run().status == 0
    half = tmp_path / "half"
    copy.train(into=half).interrupted(0.7 * copy.seconds["train"], signal.SIGTERM)
    for run in (copy.run, half):
        for more, words in [
            (("--seed", "1"), "seed 0, not 1"),
            (("--batch-size", "3"), "batch_size 2, not 3"),
            (("--model", "fasterrcnn_lite0", "--hyperparameters", "{}"), "model detr_tiny, not fasterrcnn_lite0"),
        ]:
            if (run / "checkpoints" / "last.pth").exists():
                refuses(copy.train(*more, into=run), record, "train", "changed settings", words)
    assert trained(copy.run) == before


def test_changed_dump(copy: Lab, tmp_path: Path, record: Record) -> None:
    def change(folder: Path) -> None:
        path = folder / "annotations" / "instances_default.json"
        document = json.loads(path.read_text())
        document["annotations"] = document["annotations"][1:]
        path.write_text(json.dumps(document))

    change(copy.data)
    done = copy.prepare().run()
    write_coco_dump(tmp_path / "other" / "data", images=IMAGES)
    change(tmp_path / "other" / "data")
    other = Lab(tmp_path / "other", copy.model, copy.settings, {}, {}, {}, {})
    assert other.prepare().run().status == 0
    same = done.status == 0 and prepared(copy.data) == prepared(other.data) != copy.prepared
    record("prepare", "changed", "as if the earlier dump had never been", same)


def test_another_checkpoint_evaluated(copy: Lab, record: Record) -> None:
    done = copy.evaluate("--checkpoint", copy.run / "checkpoints" / "last.pth").run()
    asked = json.loads((copy.run / "metrics.json").read_text())["checkpoint"]
    same = copy.evaluate().run().status == 0 and evaluated(copy.run) == copy.evaluated
    outcome = f"{asked}, which was asked for; then {said(same).removesuffix(' after a retry')}"
    record("evaluate", "changed settings", outcome, (done.status, asked) == (0, "last.pth") and same)


ON_THE_WAY: dict[str, Callable[[], Fault]] = {
    "one flipped bit, multipart": lambda: on("GET", "start", "flip"),
    "reset": lambda: on("GET", "start", "reset", 3),
    "cut": lambda: on("GET", "start", "cut", 3),
    "silent": lambda: on("GET", "start", "silent", 3),
    "slow": lambda: on("GET", "start", "slow", 1000),
    "expired credentials": lambda: on("GET", "start", "ExpiredToken", 1000),
    "503 for 5 s": lambda: for_seconds(5, "ServiceUnavailable"),
    "503 for 40 s": lambda: for_seconds(40, "ServiceUnavailable"),
}
"""What becomes of a checkpoint on its way to the training."""


@pytest.mark.parametrize("faults", [[*ON_THE_WAY][:1], pytest.param([*ON_THE_WAY][1:], marks=pytest.mark.slow)])
def test_train_from_a_bucket(
    copy: Lab, tmp_path: Path, record: Record, s3: S3Server, s3_client: Any, bucket: str, faults: list[str]
) -> None:
    put_in_parts(s3_client, bucket, "start/best.pth", (copy.run / "checkpoints" / "best.pth").read_bytes())
    with proxy(s3.endpoint) as between:
        settings = {"S3_BUCKET": bucket, "AWS_ENDPOINT_URL_S3": between.endpoint, "AWS_EC2_METADATA_DISABLED": "true"}
        patience = {"STORAGE_RETRY_SECONDS": "120", "STORAGE_STALL_SECONDS": "1"}
        environment = {**s3.environment, **settings, **patience}

        def step(into: str) -> Step:
            return copy.train("--checkpoint", "start", into=tmp_path / into, environment=environment)

        def learned(into: str) -> dict[str, Any]:
            # The digest of the settings holds the place of the checkpoint, which lies in the run's own folder.
            return {name: value for name, value in trained(tmp_path / into).items() if not name.endswith(" settings")}

        assert step("undisturbed").run().status == 0
        wanted = learned("undisturbed")
        for fault in faults:
            between.fault = ON_THE_WAY[fault]()
            done = step(fault).run()
            between.fault = no_fault
            same = step(fault).run().status == 0 and learned(fault) == wanted
            ok = same and (done.refused if fault == "expired credentials" else done.status == 0)
            record("train", fault, f"{done}; {said(same)}" if done.status else said(same), ok)


def test_two_at_once(copy: Lab, tmp_path: Path, record: Record) -> None:
    for name, step, folder, lock in [
        ("prepare", copy.prepare(), copy.data, LOCK),
        ("train", copy.train(into=tmp_path / "new"), tmp_path / "new", ".train.lock"),
        ("evaluate", copy.evaluate(), copy.run, ".evaluate.lock"),
    ]:
        with held(folder, name, lock) as holder:
            done = refuses(step, record, name, "two at once", "is in use", f"process {holder}")
            assert done.status == 75
    assert prepared(copy.data) == copy.prepared
