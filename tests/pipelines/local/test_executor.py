"""Planning and executing a manifest, with real processes of the real steps."""

import dataclasses
import io
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console

from pipelines.errors import PipelineError
from pipelines.local.executor import Run, StepFailedError, _may_retry, _pause, execute, plan
from pipelines.manifest.reader import Manifest
from pipelines.workflow.containers import retry_expression
from pipelines.workflow.contract import WORKFLOW

PREPARE = ["python", "-m", "steps", "prepare", "--dataset-dir", "/mnt/data", "--val-split"]
ALWAYS = {"limit": "2", "retryPolicy": "Always"}


def planned(folder: Path, args: list[str], retries: dict[str, str] | None = None, **overrides: str) -> Run:
    """Plan a workflow of one box."""
    container = {
        "args": args,
        "env": [{"name": "GREETING", "value": "hello"}, {"name": "SECRET", "valueFrom": {"secretKeyRef": {}}}],
        "volumeMounts": [
            {"name": "data", "mountPath": "/mnt/data"},
            {"name": "dshm", "mountPath": "/dev/shm"},
        ],
    }
    box: dict[str, Any] = {"name": "box", "container": container}
    spec = {
        "entrypoint": "main",
        "arguments": {"parameters": [{"name": "split", "value": "20"}]},
        "templates": [
            {"name": "main", "dag": {"tasks": [{"name": "the-box", "template": "box"}]}},
            {**box, "retryStrategy": retries} if retries else box,
        ],
        "volumeClaimTemplates": [{"metadata": {"name": "data"}}],
    }
    path = folder / "workflow.yaml"
    path.write_text(yaml.safe_dump({"metadata": {"generateName": "wf-"}, "spec": spec}))
    return plan(Manifest.load(path), overrides, folder / "runs")


def executed(run: Run) -> str:
    console = Console(file=io.StringIO(), width=200)
    try:
        execute(run, {}, console)
    except StepFailedError as error:
        console.print(error, markup=False)
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_volumes_and_tmp_become_folders_of_the_run(tmp_path: Path) -> None:
    args = ["python", "-m", "steps", "evaluate", "--dataset-dir", "/mnt/data/sub", "--output-dir", "/mnt/database"]
    run = planned(tmp_path, [*args, "--metrics-file", "/tmp/m.json"])
    (task,) = run.tasks
    assert task.command[task.command.index("--dataset-dir") + 1] == str(run.folder / "data" / "sub")
    assert task.command[task.command.index("--output-dir") + 1] == "/mnt/database", "no volume is mounted there"
    assert task.command[task.command.index("--metrics-file") + 1] == str(run.folder / "tmp" / "the-box" / "m.json")
    assert task.environment == {"GREETING": "hello"}


def test_a_value_that_reads_like_a_path_in_a_volume_is_the_user_s_own(tmp_path: Path) -> None:
    args = ["python", "-m", "steps", "train", "--dataset-dir", "/mnt/data", "--output-dir", "/tmp/{{workflow.name}}"]
    for value in ("/tmp/x.pth", "/mnt/data/x.pth"):
        run = planned(tmp_path, [*args, "--checkpoint", "{{workflow.parameters.split}}"], split=value)
        (task,) = run.tasks
        assert task.command[task.command.index("--checkpoint") + 1] == value
        assert task.command[task.command.index("--dataset-dir") + 1] == str(run.folder / "data")
        assert task.command[task.command.index("--output-dir") + 1] == str(run.folder / "tmp" / "the-box" / run.name)


def test_each_run_has_a_name_and_a_folder_of_its_own(tmp_path: Path) -> None:
    runs = [planned(tmp_path, [*PREPARE, "20"]) for _ in range(2)]
    assert runs[0].folder != runs[1].folder
    assert all(re.fullmatch(r"wf-[a-z0-9]{5}", run.name) for run in runs)


@pytest.mark.parametrize(("value", "said"), [("abc", "integer"), ("100", "less than or equal to 99")])
def test_a_value_that_a_step_refuses_is_refused_before_anything_runs(tmp_path: Path, value: str, said: str) -> None:
    with pytest.raises(PipelineError, match=f"parameter 'split' is '{value}'.*{said}"):
        planned(tmp_path, [*PREPARE, "{{workflow.parameters.split}}"], split=value)
    assert not (tmp_path / "runs").exists()


def test_what_is_no_step_is_not_run(tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match="only `python -m steps`"):
        planned(tmp_path, ["sh", "-c", "true"])


def test_a_failure_names_the_step_its_last_lines_and_its_log(tmp_path: Path) -> None:
    run = planned(tmp_path, [*PREPARE, "20"])
    said = executed(run)
    log = run.folder / "logs" / "the-box.log"
    assert "step 'the-box' failed with exit status 2" in said
    assert "error: " in said.partition("failed with")[2]
    assert str(log) in said
    assert "holds no dump in a supported format" in log.read_text()


@pytest.mark.parametrize(
    ("retries", "attempts"),
    [
        (None, 1),
        (ALWAYS, 3),
        ({"limit": "2"}, 3),
        ({"limit": "2", "retryPolicy": "OnFailure"}, 3),
        ({"limit": "2", "retryPolicy": "OnError"}, 1),
        ({**ALWAYS, "expression": "asInt(lastRetry.exitCode) != 2"}, 1),
        ({**ALWAYS, "expression": "lastRetry.status == 'Failed' && asInt(lastRetry.exitCode) > 1"}, 3),
    ],
)
def test_the_manifests_retries_are_honoured(tmp_path: Path, retries: dict[str, str] | None, attempts: int) -> None:
    run = planned(tmp_path, [*PREPARE, "20"], retries)
    executed(run)
    assert (run.folder / "logs" / "the-box.log").read_text().count("error: ") == attempts


@pytest.mark.parametrize(
    ("status", "attempt", "again"),
    [
        (2, 0, False),
        (1, 0, True),
        (1, 1, True),
        (1, 2, False),
        (75, 2, True),
        (75, 9, True),
        (143, 9, True),
        (137, 9, True),
    ],
)
def test_mistakes_defects_and_bad_luck_are_told_apart(status: int, attempt: int, again: bool) -> None:
    retries = {**ALWAYS, "expression": retry_expression(2)}
    assert _may_retry(retries, status, 1.0, attempt) is again


def test_pauses_grow_to_their_cap() -> None:
    backoff = {"duration": "10s", "factor": "2", "cap": "5m"}
    assert [_pause(backoff, attempt) for attempt in range(7)] == [10, 20, 40, 80, 160, 300, 300]
    assert _pause({"duration": "20s"}, 9) == 20
    assert _pause({}, 3) == 0


def test_a_retry_expression_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    run = planned(tmp_path, [*PREPARE, "20"], {**ALWAYS, "expression": "sprig.now() > 1"})
    with pytest.raises(PipelineError, match=r"sprig\.now"):
        execute(run, {}, Console(file=io.StringIO()))


def test_credentials_of_the_caller_stay_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "mine")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "mine")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    fetch = ["python", "-m", "steps", "fetch", "--annotation-path", "s3://bucket/x", "--dataset-dir", "/mnt/data"]
    run = planned(tmp_path, fetch)
    console = Console(file=io.StringIO(), width=200)
    with pytest.raises(StepFailedError, match="no S3 credentials"):
        execute(run, {"AWS_EC2_METADATA_DISABLED": "true"}, console)


@pytest.mark.parametrize(("changed", "ran"), [("true", True), ("false", False)])
def test_a_task_whose_condition_does_not_hold_is_skipped(tmp_path: Path, changed: str, ran: bool) -> None:
    run = planned(tmp_path, [*PREPARE, "20"])
    (task,) = run.tasks
    decide = dataclasses.replace(
        task,
        name="decide",
        command=[sys.executable, "-c", f"open({str(tmp_path / 'changed')!r}, 'w').write('{changed}')"],
        outputs={"changed": tmp_path / "changed"},
    )
    then = dataclasses.replace(
        task,
        command=[sys.executable, "-c", "print('here')"],
        when="{{tasks.decide.outputs.parameters.changed}} == true",
    )
    said = executed(dataclasses.replace(run, tasks=[decide, then]))
    assert ("here" in said) == ran
    assert ("skipped" in said) != ran


@pytest.mark.parametrize(
    ("status", "attempt", "again"),
    [(2, 0, False), (1, 1, True), (1, 2, False), (75, 5, True), (143, 9, True), (137, 9, True)],
)
def test_the_compiled_manifest_tries_again_what_may_pass(status: int, attempt: int, again: bool) -> None:
    templates = Manifest.load(WORKFLOW).spec["templates"]
    retries = next(each["retryStrategy"] for each in templates if each["name"] == "train-detr")
    assert _may_retry(retries, status, 60.0, attempt) is again
