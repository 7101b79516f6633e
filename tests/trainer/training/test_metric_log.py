from __future__ import annotations

import json
import math
import os
from pathlib import Path

import orjson

from trainer.training.metric_log import Journal, read_log


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
    before = (tmp_path / "log.jsonl").read_bytes()
    os.link(tmp_path / "log.jsonl", tmp_path / "old")
    second = Journal(tmp_path, epochs_done=2, steps_done=20)
    # The old file was not touched, so that a kill at any moment leaves it or the new one.
    assert (tmp_path / "old").read_bytes() == before
    second.epoch(row(3))
    second.close()
    lines = (tmp_path / "log.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [row(1), row(2), row(3)]


def test_a_loss_that_is_not_finite_is_null(tmp_path: Path):
    journal = Journal(tmp_path, 0, 0)
    journal.epoch({**row(1), "val": {"loss": math.inf, "AP": math.nan, "AP50": -math.inf}})
    journal.close()
    # A program that knows JSON and no more.
    (line,) = (orjson.loads(line) for line in (tmp_path / "log.jsonl").read_bytes().splitlines())
    assert line["val"] == {"loss": None, "AP": None, "AP50": None}
    # An earlier version wrote them as they were.
    (tmp_path / "log.jsonl").write_text(json.dumps({**row(1), "val": {"loss": math.inf}}) + "\n")
    Journal(tmp_path, 1, 10).close()
    assert orjson.loads((tmp_path / "log.jsonl").read_bytes())["val"] == {"loss": None}


def test_a_new_run_starts_a_new_log(tmp_path: Path):
    (tmp_path / "log.jsonl").write_text(json.dumps(row(1)) + "\n")
    Journal(tmp_path, 0, 0).close()
    assert read_log(tmp_path / "log.jsonl") == []
