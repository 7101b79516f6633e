from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from trainer.journal import Journal, Progress, in_words, read_log


def row(epoch: int) -> dict:
    return {
        "epoch": epoch,
        "step": 10 * epoch,
        "lr": 1e-4,
        "lr_backbone": 1e-5,
        "train": {"loss": 2.0},
        "val": None,
        "seconds": 1.0,
        "seconds_per_step": 0.1,
        "images": 3,
    }


def test_epochs_that_are_run_again_are_dropped_from_the_log(tmp_path: Path):
    first = Journal(tmp_path, epochs_done=0, steps_done=0)
    for epoch in (1, 2, 3):
        first.epoch(row(epoch))
    first.close()
    with (tmp_path / "log.jsonl").open("a") as stream:
        stream.write('{"epoch": 4, "st')
    second = Journal(tmp_path, epochs_done=2, steps_done=20)
    second.epoch(row(3))
    second.close()
    lines = (tmp_path / "log.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [row(1), row(2), row(3)]


def test_a_new_run_starts_a_new_log(tmp_path: Path):
    (tmp_path / "log.jsonl").write_text(json.dumps(row(1)) + "\n")
    Journal(tmp_path, 0, 0).close()
    assert read_log(tmp_path / "log.jsonl") == []


def test_progress_is_told_every_so_often(caplog):
    caplog.set_level(logging.INFO, logger="trainer")
    patient, eager = Progress(lambda: 3, 5, every_seconds=1e6), Progress(lambda: 3, 5, every_seconds=1e-9)
    patient.step(0, 1, 1.0)
    assert not caplog.records
    eager.step(1, 2, 1.25)
    assert "epoch 2/3, step 2/5: loss 1.250" in caplog.text
    assert eager.left(3, 0) == 0


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.2, "0 s"), (59.7, "1 min 0 s"), (200, "3 min 20 s"), (7500, "2 h 5 min")]
)
def test_durations_in_words(seconds: float, words: str):
    assert in_words(seconds) == words
