"""The whole workflow on this machine, as `make run` starts it."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import orjson
import psutil
import pytest

from pipelines.local.sample import draw_sample
from tests.pipelines.command import Done, pipelines
from tests.processes import hear_ctrl_c

PROJECT = Path(__file__).parents[3]
FAST = ["--epochs", "1", "--param", "batch-size=4"]


@pytest.fixture(scope="module")
def small_dump(tmp_path_factory: pytest.TempPathFactory) -> Path:
    # A name that Rich would take for markup.
    return draw_sample(tmp_path_factory.mktemp("dump") / "dumps [" / "old]", images=10)


def command(*flags: str | Path) -> list[str]:
    return [sys.executable, "-m", "pipelines", "run", *map(str, flags)]


def run(*flags: str | Path, runs: Path) -> Done:
    """Run with temporary files below `runs`, by which `servers` knows what belongs to the run."""
    return pipelines("run", *flags, "--runs", runs, env={**os.environ, "TMPDIR": str(runs.parent)})


def servers(folder: Path) -> list[int]:
    """Name the S3 servers that keep their data below `folder`."""
    running = psutil.process_iter(["name", "cmdline"])
    return [each.pid for each in running if each.info["name"] == "weed" and str(folder) in str(each.info["cmdline"])]


def test_a_dump_becomes_a_model_a_report_and_objects_in_the_bucket(small_dump: Path, tmp_path: Path) -> None:
    runs = tmp_path / "runs [" / "old]"
    result = run(
        "--dump", small_dump, *FAST, "--param", "cvat-output-path=/models//", "--param", "source=unused", runs=runs
    )
    assert result.returncode == 0, result.stdout + result.stderr
    (folder,) = (path for path in runs.iterdir() if not path.is_symlink())
    assert (runs / "latest").resolve() == folder

    order = re.findall(r"✓ (\S+)", result.stdout)
    assert order == ["fetch-dump", "prepare-data", "train-detr", "evaluate", "upload-artifacts"]
    assert [path.stem for path in (folder / "logs").iterdir() if path.stat().st_size] != []
    metrics = orjson.loads((folder / "output" / "metrics.json").read_bytes())
    assert f"{metrics['AP50']:.3f}" in result.stdout

    assert str(small_dump) in result.stdout
    bucket = result.stdout.partition("in the bucket")[2]
    assert f"default/models/{folder.name}/" in bucket
    for artifact in ("checkpoints/best.pth", "metrics.json", "report.html", "manifest.json"):
        assert artifact in bucket
    assert orjson.loads((folder / "tmp" / "evaluate" / "sys-metrics.json").read_bytes())[0]["value"] == metrics["AP"]
    assert not servers(tmp_path)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--epochs", "0"], "parameter 'epochs' is '0'"),
        (["--epochs", "abc"], "parameter 'epochs' is 'abc'"),
        (["--model", "detr"], "parameter 'model' is 'detr': 'detr' is not a model; it can be "),
        (["--param", "epoch=1"], "did you mean 'epochs'"),
        (["--param", "epochs"], "write name=value"),
        (["--param", "batch-size=0"], "parameter 'batch-size' is '0'"),
        (["--param", "hyperparameters=lrr: 0.1"], "unknown hyperparameter 'lrr'; did you mean lr"),
        (["--param", "cvat-annotation-path=x"], "is set by `run`: name the dump with --dump"),
        (["--dump", "no-such.zip"], "no-such.zip does not exist: give --dump"),
        (["--manifest", "no-such.yaml"], "make compile"),
        (["--dump", str(PROJECT / "LICENSE")], "neither a folder nor a zip"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(flags: list[str], said: str, tmp_path: Path) -> None:
    assert said in run(*flags, runs=tmp_path / "runs").refusal


def test_a_folder_in_the_way_of_the_link_to_the_latest_run_is_named(small_dump: Path, tmp_path: Path) -> None:
    (tmp_path / "latest").mkdir()
    assert f"{tmp_path / 'latest'} is a folder" in run("--dump", small_dump, runs=tmp_path).refusal
    assert [path.name for path in tmp_path.iterdir()] == ["latest"]


def test_an_exception_in_a_step_is_reported_and_the_server_is_gone(small_dump: Path, tmp_path: Path) -> None:
    """A copy of the project with a mistake in it, since the mistake must be real."""
    project = tmp_path / "project"
    # Without manifests/, as in a wheel: the workflow is compiled.
    for name in ("pipelines", "steps", "trainer"):
        shutil.copytree(PROJECT / name, project / name, ignore=shutil.ignore_patterns("__pycache__"))
    broken = project / "steps" / "prepare.py"
    start = "    dataset_dir = Path(dataset_dir).absolute()\n"
    assert start in broken.read_text()
    broken.write_text(broken.read_text().replace(start, f"{start}    raise RuntimeError('on purpose')\n"))

    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    flags = command("--dump", small_dump, *FAST, "--runs", tmp_path / "runs")
    result = subprocess.run(flags, cwd=project, env=environment, capture_output=True, text=True, timeout=300)
    assert result.returncode == 1
    assert "step 'prepare-data' failed with exit status 1" in result.stderr
    assert "RuntimeError: on purpose" in result.stderr
    log = re.search(r"its log: (.+)", result.stderr)
    assert log
    assert "RuntimeError: on purpose" in Path(log[1]).read_text()
    assert "train-detr" not in result.stdout
    assert not servers(tmp_path)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_stops_the_step_and_the_server(
    small_dump: Path, tmp_path: Path, number: signal.Signals, status: int
) -> None:
    process = subprocess.Popen(
        command("--dump", small_dump, "--epochs", "100000", "--runs", tmp_path),
        cwd=PROJECT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        preexec_fn=hear_ctrl_c,
    )
    assert process.stdout is not None
    for line in process.stdout:
        if "train-detr" in line:
            break
    time.sleep(1)
    children = psutil.Process(process.pid).children(recursive=True)
    assert {"weed"} < {child.name() for child in children}
    os.kill(process.pid, number)
    try:
        process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == status
    _, alive = psutil.wait_procs(children, timeout=10)
    assert not alive
