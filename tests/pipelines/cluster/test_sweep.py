"""A sweep on a cluster: what is sent and when, and that what it sends runs."""

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from rich.console import Console

from pipelines.cluster.sweep import sweep_workflows
from pipelines.local.executor import execute, plan
from pipelines.local.s3_server import S3Server
from pipelines.manifest.lint import lint
from pipelines.manifest.reader import Manifest
from pipelines.manifest.sweep import part
from pipelines.workflow.contract import WORKFLOW
from tests.pipelines.cluster.double import NAMESPACE, cluster_double
from tests.pipelines.cluster.ways import DUMP, WAYS, environment, refused
from tests.pipelines.command import pipelines

BEGINS = [{}, {"phase": "Pending", "message": "waiting"}, {"phase": "Running"}]
SWEEP = ("sweep", "--cluster", DUMP, "--param=lr=1e-4,3e-4,1e-3", "--at-once", "2")


@pytest.mark.parametrize("way", WAYS)
def test_the_data_comes_first_and_the_runs_take_turns(way: str, tmp_path: Path) -> None:
    with cluster_double(states=BEGINS, moves=True) as double:
        done = pipelines(*SWEEP, env=environment(way, double, tmp_path))
    assert done.returncode == 0, done.stderr
    data, *runs = double.created()
    name = data["metadata"]["labels"]["cvat-detr/sweep"]
    assert {each["metadata"]["labels"]["cvat-detr/sweep"] for each in runs} == {name}
    assert [each["metadata"]["name"] for each in (data, *runs)] == [f"{name}-{end}" for end in ("data", 1, 2, 3)]
    order = [method for method, path, _, _ in double.asked]
    assert order == ["POST", "GET", "GET", "GET", "POST", "POST", "POST"], "the runs wait until the data's began"

    locks = [[each["name"] for each in one["spec"]["synchronization"]["mutexes"]] for one in (data, *runs)]
    assert sorted(locks[0]) == sorted({lock for each in locks[1:] for lock in each}), "it holds all that runs wait for"
    assert len(locks[0]) == 2, "at most so many at once"
    assert all(len(each) == 1 for each in locks[1:])

    values = [{e["name"]: e["value"] for e in one["spec"]["arguments"]["parameters"]} for one in (data, *runs)]
    assert values[0]["cvat-annotation-path"] == "annotation-dump/7/"
    place = f"{NAMESPACE}/workflow-data/output/{name}/{name}-data"
    assert {each["cvat-annotation-path"] for each in values[1:]} == {place}
    assert [yaml.safe_load(each["hyperparameters"])["lr"] for each in values[1:]] == ["1e-4", "3e-4", "1e-3"]
    assert next(each["metadata"]["annotations"]["cvat-detr/combination"] for each in runs) == "lr=1e-4"
    assert f"cvat-detr compare {NAMESPACE}/workflow-data/output/{name} " in done.stdout


def test_nothing_is_sent_of_a_sweep_that_is_wrong(tmp_path: Path) -> None:
    with cluster_double() as double:
        env = environment("argo", double, tmp_path)
        wrong = refused(pipelines("sweep", "--cluster", DUMP, "--param=lr=1e-4,fast", env=env))
        dump = refused(pipelines("sweep", "--cluster", "--param=lr=1e-4,3e-4", env=env))
        none = refused(pipelines(*SWEEP[:-1], "0", env=env))
        assert double.asked == []
    assert "field 'lr' is 'fast'" in wrong
    assert "parameter 'cvat-annotation-path' is required" in dump
    assert "--at-once is 0" in none


def test_a_cluster_that_does_not_begin_gets_no_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipelines.cluster.sweep.SECONDS_TO_BEGIN", 0)
    with cluster_double(states=BEGINS[:1]) as double:
        line = refused(pipelines(*SWEEP, env=environment("argo", double, tmp_path)))
    assert "no controller has taken it up" in line
    assert len(double.created()) == 1


@pytest.mark.parametrize("chosen", [[], ["--reuse-data"]])
def test_argo_takes_every_workflow_of_a_sweep(chosen: list[str], tmp_path: Path) -> None:
    assert pipelines("compile", "--output", tmp_path, *chosen).returncode == 0
    done = pipelines(*SWEEP, "--dry-run", "--manifest", tmp_path / "argo" / "detr-training.workflow.yaml")
    documents = list(yaml.safe_load_all(done.stdout))
    assert len(documents) == 4
    for document in documents:
        path = tmp_path / f"{document['metadata']['name']}.yaml"
        path.write_text(yaml.safe_dump(document))
        assert lint(path) == []
        assert "remember-data" not in path.read_text(), "a sweep keeps its data by itself"


def test_the_runs_get_the_data_that_was_prepared(
    tmp_path: Path, coco_dump: Callable[..., Path], put: Callable[[str, Path], None], bucket: str, s3: S3Server
) -> None:
    """The workflows of a sweep as they are sent, up to the training, against a real bucket."""
    coco_dump(tmp_path / "dump", images=4)
    put("dumps/7", tmp_path / "dump")
    given = {"cvat-annotation-path": "dumps/7/", "lr": "1e-4,3e-4"}
    data, first, _ = sweep_workflows(Manifest.load(WORKFLOW), given, "sweep-abcde", "default", 1)
    variables = {**s3.environment, "S3_BUCKET": bucket}
    folders = []
    for document, steps in ((data, {"fetch", "prepare", "upload"}), (first, {"fetch"})):
        manifest = part(Manifest(WORKFLOW, document["metadata"], document["spec"]), steps)
        run = plan(manifest, {}, tmp_path / "runs")
        run.folder.mkdir(parents=True)
        execute(run, variables, Console(quiet=True))
        folders.append(run.data)
    made, got = (
        {path.relative_to(folder) for path in folder.rglob("*") if path.is_file() and ".fetch" not in path.parts}
        for folder in folders
    )
    assert Path("annotations/instances_train.json") in got
    assert got == made | {Path("manifest.json")}
