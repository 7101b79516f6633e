"""Watching, through both ways to a cluster, as a user would from the shell."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipelines.cli import WORKFLOW
from tests.pipelines.cluster.double import CREATED, NAMESPACE, cluster_double
from tests.pipelines.cluster.ways import WAYS, environment, refused
from tests.pipelines.command import pipelines
from tests.processes import hear_ctrl_c

PROJECT = Path(__file__).parents[3]
STARTED = "2026-01-01T10:00:00Z"


def node(number: int, step: str, phase: str, **more: Any) -> dict[str, Any]:
    return {
        "id": f"{CREATED}-{number}",
        "displayName": step,
        "type": "Pod",
        "phase": phase,
        "startedAt": f"2026-01-01T10:00:{number % 60:02d}Z",
        **({"finishedAt": "2026-01-01T10:01:30Z"} if phase in ("Succeeded", "Failed") else {}),
        **more,
    }


def status(phase: str, *nodes: dict[str, Any]) -> dict[str, Any]:
    return {"phase": phase, "startedAt": STARTED, "nodes": {each["id"]: each for each in nodes}}


FETCHED = node(1, "fetch-dump", "Succeeded")
GOOD = [
    status("Pending"),
    status("Running", node(1, "fetch-dump", "Running")),
    status("Running", FETCHED, node(2, "train-detr", "Running")),
    status("Succeeded", FETCHED, node(2, "train-detr", "Succeeded")),
]
RETRIED = node(5, "train-detr", "Failed", type="Retry", children=[f"{CREATED}-6", f"{CREATED}-77"], message="No more")
BAD = [
    status("Running", node(1, "fetch-dump", "Running")),
    status(
        "Failed",
        FETCHED,
        RETRIED,
        node(6, "train-detr(0)", "Failed", message="Error (exit code 1)"),
        node(77, "train-detr(1)", "Failed", message="OOMKilled [/mnt/src] [red] :pig: (137)"),
    ),
]


@pytest.mark.parametrize("way", WAYS)
def test_watching_shows_each_step_and_succeeds(way: str, tmp_path: Path) -> None:
    with cluster_double(states=GOOD) as double:
        result = pipelines("submit", "--watch", env=environment(way, double, tmp_path))
    assert result.returncode == 0, result.stdout + result.stderr
    lines = [" ".join(line.split()) for line in result.stdout.splitlines()]
    assert "fetch-dump Running" in lines
    assert "fetch-dump Succeeded 1m29s" in lines
    assert "train-detr Succeeded 1m28s" in lines
    assert any(line.startswith(f"{CREATED} Succeeded") for line in lines)


@pytest.mark.parametrize("way", WAYS)
def test_a_dropped_watch_is_taken_up_again(way: str, tmp_path: Path) -> None:
    with cluster_double(states=GOOD, drops=2) as double:
        result = pipelines("watch", CREATED, env=environment(way, double, tmp_path))
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.count("trying again in") == 2
    assert "train-detr" in result.stdout


@pytest.mark.parametrize("way", WAYS)
def test_a_failed_workflow_is_explained(way: str, tmp_path: Path) -> None:
    log = [f"line {number}" for number in range(30)] + ["error: loss is not finite"]
    with cluster_double(states=BAD, log=log) as double:
        result = pipelines("watch", CREATED, env=environment(way, double, tmp_path))
    assert result.returncode == 1
    assert "train-detr: OOMKilled [/mnt/src] [red] :pig: (137)" in result.stdout
    assert "error: loss is not finite" in result.stdout
    assert "of another pod" not in result.stdout
    assert "train-detr(0)" not in result.stdout, "retries are one step"


def test_a_terminal_shows_a_table_with_messages_as_they_are(tmp_path: Path) -> None:
    states = [status("Failed", FETCHED, node(6, "train-detr", "Failed", message="lost [/mnt/src] :pig:"))]
    with cluster_double(states=states) as double:
        env = {**environment("kubernetes", double, tmp_path), "FORCE_COLOR": "1", "COLUMNS": "100"}
        result = pipelines("watch", CREATED, env=env)
    assert result.returncode == 1, result.stderr
    row = next(line for line in result.stdout.splitlines() if "train-detr" in line and "Failed" in line)
    assert "lost [/mnt/src] :pig:" in row


@pytest.mark.parametrize("way", WAYS)
def test_watching_what_is_not_there(way: str, tmp_path: Path) -> None:
    with cluster_double(states=GOOD) as double:
        line = refused(pipelines("watch", "no-such", env=environment(way, double, tmp_path)))
    assert "no workflow 'no-such'" in line


@pytest.mark.parametrize("way", WAYS)
def test_ctrl_c_leaves_the_workflow_running_and_says_so(way: str, tmp_path: Path) -> None:
    with cluster_double(states=GOOD[:2], hold=True) as double:
        process = subprocess.Popen(
            [sys.executable, "-m", "pipelines", "watch", CREATED],
            cwd=PROJECT,
            env={**environment(way, double, tmp_path), "PYTHONUNBUFFERED": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            preexec_fn=hear_ctrl_c,
        )
        assert process.stdout is not None
        while "fetch-dump" not in process.stdout.readline():
            assert process.poll() is None
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "the workflow keeps running" in said
    assert f"python -m pipelines watch {CREATED} --namespace {NAMESPACE}" in said
    assert all(method == "GET" for method, *_ in double.asked), "nothing was stopped"


def test_requests_to_the_argo_server_follow_its_openapi_document(tmp_path: Path) -> None:
    document = PROJECT.parent / "shared" / "argo" / "argo-server-v4.1.2.swagger.json"
    if not document.is_file():
        pytest.skip("the OpenAPI document of the Argo Server is not beside the project")
    swagger = json.loads(document.read_text())
    template = yaml.safe_load(WORKFLOW.with_name("detr-training.workflowtemplate.yaml").read_text())
    with cluster_double(states=BAD, log=["x"], template=template) as double:
        env = environment("argo", double, tmp_path)
        pipelines("submit", "--watch", env=env)
        pipelines("submit", "--from-template", "detr-training", env=env)
    assert len(double.asked) >= 6
    for method, path, query, body in double.asked:
        parts = path.strip("/").split("/")
        candidates = [
            operations[method.lower()]
            for pattern, operations in swagger["paths"].items()
            if method.lower() in operations
            and len(names := pattern.strip("/").split("/")) == len(parts)
            and all(name.startswith("{") or name == part for name, part in zip(names, parts, strict=True))
        ]
        assert candidates, f"{method} {path} is no call of the Argo Server"
        known = {each["name"] for operation in candidates for each in operation.get("parameters", [])}
        assert query.keys() <= known
        if body is not None:
            (operation,) = candidates
            (schema,) = (each["schema"] for each in operation["parameters"] if each["in"] == "body")
            assert not list(unknown_fields(body, schema, swagger["definitions"]))


def unknown_fields(value: Any, schema: dict[str, Any], definitions: dict[str, Any], place: str = "") -> Any:
    """Name the fields of a body that its schema does not have."""
    schema = definitions[schema["$ref"].rpartition("/")[2]] if "$ref" in schema else schema
    if isinstance(value, dict) and "properties" in schema:
        for key, inner in value.items():
            if key not in schema["properties"]:
                yield f"{place}.{key}"
            else:
                yield from unknown_fields(inner, schema["properties"][key], definitions, f"{place}.{key}")
    elif isinstance(value, list) and "items" in schema:
        for inner in value:
            yield from unknown_fields(inner, schema["items"], definitions, f"{place}[]")
