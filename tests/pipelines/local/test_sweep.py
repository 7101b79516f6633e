"""A sweep on this machine."""

import os
from pathlib import Path

import pytest

from pipelines.local.sample import draw_sample
from tests.pipelines.command import pipelines


@pytest.mark.slow
def test_runs_share_their_data_and_one_that_fails_does_not_stop_the_others(tmp_path: Path) -> None:
    dump, runs = draw_sample(tmp_path / "dump", images=10), tmp_path / "runs"
    values = ["model=hf:/no/such,ddq_lite0", "epochs=1", "batch-size=4", "image_size=128", "max_size=160"]
    flags = [f"--param={each}" for each in values]
    done = pipelines("sweep", "--dump", dump, "--runs", runs, *flags, env={**os.environ, "TMPDIR": str(tmp_path)})
    sweep = (runs / "latest").resolve()
    assert done.returncode == 1
    assert f"1 of the runs failed: {sweep.name}-1" in done.stderr
    assert done.stdout.count("✓ prepare-data") == 1
    assert done.stdout.count("✓ upload-artifacts") == 1
    second = sweep / f"{sweep.name}-2"
    assert (second / "data").resolve() == sweep / "data" / "data"
    assert (second / "output" / "report.html").is_file()
    assert f"{sweep.name}-2" in (sweep / "comparison.html").read_text()


def test_what_is_wrong_is_said_before_anything_starts(tmp_path: Path) -> None:
    assert "nothing varies" in pipelines("sweep", "--runs", tmp_path, "--param", "lr=1").refusal
    assert "set by `run`" in pipelines("sweep", "--runs", tmp_path, "--param=cvat-annotation-path=a,b").refusal
    assert list(tmp_path.iterdir()) == []
