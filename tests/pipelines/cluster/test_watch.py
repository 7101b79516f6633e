"""Watching, through both ways to a cluster, as a user would from the shell."""

import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipelines.cli import WORKFLOW
from pipelines.cluster import argo_server, kubernetes
from pipelines.cluster.nodes import duration
from pipelines.cluster.watch import report_address
from tests.pipelines.cluster.double import CREATED, NAMESPACE, cluster_double
from tests.pipelines.cluster.ways import DUMP, WAYS, environment, refused
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
        result = pipelines("submit", DUMP, "--watch", env=environment(way, double, tmp_path))
    assert result.returncode == 0, result.stdout + result.stderr
    lines = [" ".join(line.split()) for line in result.stdout.splitlines()]
    assert "fetch-dump Running" in lines
    assert "fetch-dump Succeeded 1m29s" in lines
    assert "train-detr Succeeded 1m28s" in lines
    assert any(line.startswith(f"{CREATED} Succeeded") for line in lines)


@pytest.mark.parametrize(
    ("seconds", "written"),
    [
        (0, "0s"),
        (59.4, "59s"),
        (59.6, "1m00s"),
        (89, "1m29s"),
        (3600, "1h00m"),
        (86399, "23h59m"),
        (7 * 86400, "7d00h"),
    ],
)
def test_a_duration_has_its_two_largest_units(seconds: float, written: str) -> None:
    assert duration(seconds) == written


@pytest.mark.parametrize("way", WAYS)
def test_a_dropped_watch_is_taken_up_again(way: str, tmp_path: Path) -> None:
    with cluster_double(states=GOOD, drops=2) as double:
        result = pipelines("watch", CREATED, env=environment(way, double, tmp_path))
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.count("trying again in") == 2
    assert "train-detr" in result.stdout


@pytest.mark.parametrize("way", WAYS)
def test_a_failed_workflow_is_explained(way: str, tmp_path: Path) -> None:
    executor = [
        'time="2026-01-01T10:01:29.000Z" level=info msg="capturing logs" argo=true',
        'time=2026-01-01T10:01:29.000Z level=INFO msg="sub-process exited" argo=true error="exit status 2"',
        '{"time":"2026-01-01T10:01:29Z","level":"INFO","msg":"sub-process exited","argo":true}',
    ]
    log = [*executor[:1], *(f"line {number}" for number in range(30)), "error: loss is not finite", *executor[1:]]
    with cluster_double(states=BAD, log=log) as double:
        result = pipelines("watch", CREATED, env=environment(way, double, tmp_path))
    assert result.returncode == 1
    end = result.stdout.partition(f"{CREATED} Failed")[2].splitlines()[1:]
    assert end[0] == "train-detr: error: loss is not finite", "what the step itself says comes first"
    assert end[1] == "  (OOMKilled [/mnt/src] [red] :pig: (137))"
    assert end[-1] == "  line 29"
    assert 10 < len(end) < 25
    assert "argo=true" not in result.stdout
    assert '"argo":true' not in result.stdout
    assert "of another pod" not in result.stdout
    assert "train-detr(0)" not in result.stdout, "retries are one step"


def test_a_run_of_an_installed_template_has_its_report_where_the_template_says() -> None:
    compiled = yaml.safe_load(WORKFLOW.read_text())
    given = {"name": "cvat-output-path", "value": "/mine/"}
    workflow = {
        "metadata": {"name": "run-1", "namespace": "team"},
        "spec": {"workflowTemplateRef": {"name": "t"}, "arguments": {"parameters": [given]}},
        "status": {"storedWorkflowTemplateSpec": compiled["spec"]},
    }
    assert report_address(workflow) == "team/mine/run-1/report.html in the bucket"
    workflow["spec"]["arguments"] = {}
    assert report_address(workflow) == "team/workflow-data/output/run-1/report.html in the bucket"
    assert report_address({**workflow, "status": {}}) == ""


@pytest.mark.parametrize("way", WAYS)
def test_the_end_names_the_reports_address(way: str, tmp_path: Path) -> None:
    folder = tmp_path / "compiled"
    assert pipelines("compile", "--output", folder, "--bucket", "models").returncode == 0
    manifest = folder / "argo" / "detr-training.workflow.yaml"
    with cluster_double(states=GOOD) as double:
        env = environment(way, double, tmp_path)
        named = pipelines("submit", DUMP, "--watch", "--manifest", manifest, env=env)
        double.moment = 0
        secret = pipelines("submit", DUMP, "--watch", env=env)
    key = f"{NAMESPACE}/workflow-data/output/{CREATED}/report.html"
    assert named.stdout.splitlines()[-1] == f"report: s3://models/{key}"
    assert secret.stdout.splitlines()[-1] == f"report: {key} in the bucket", "its name is in a secret"


# As kube-scheduler, kubelet and a provisioner say it.
NO_GPU = "0/3 nodes are available: 3 Insufficient nvidia.com/gpu. preemption: 0/3 nodes are available: 3 No victims."
BACK_OFF = {"reason": "ImagePullBackOff", "message": 'Back-off pulling image "no/such"'}
POD = f"{CREATED}-train-detr-77"


def pod(conditions: Any = (), containers: Any = ()) -> dict[str, Any]:
    return {
        "metadata": {"name": POD, "annotations": {"workflows.argoproj.io/node-id": f"{CREATED}-77"}},
        "status": {
            "phase": "Pending",
            "conditions": [{"type": kind, "status": state, **more} for kind, state, more in conditions],
            "initContainerStatuses": [
                {"name": "init", "state": {"waiting": each}, "image": "", "imageID": "", "ready": False,
                 "restartCount": 0}
                for each in containers
            ],
        },
    }  # fmt: skip


def warning(kind: str, name: str, reason: str, message: str, time: str = "2026-01-01T10:00:30Z") -> dict[str, Any]:
    about = {"kind": kind, "name": name}
    times = {"lastTimestamp": time, "firstTimestamp": time}
    return {
        "metadata": {"name": f"{name}.{time}"}, "involvedObject": about, "reason": reason, "message": message, **times,
    }  # fmt: skip


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("message", "pods", "warnings", "said"),
    [
        (
            f"Unschedulable: {NO_GPU}",
            [pod([("PodScheduled", "False", {"reason": "Unschedulable", "message": NO_GPU})])],
            [warning("Pod", POD, "FailedScheduling", NO_GPU)],
            "Unschedulable: 0/3 nodes are available: 3 Insufficient nvidia.com/gpu.",
        ),
        (
            'ImagePullBackOff: Back-off pulling image "no/such"',
            [pod([("PodScheduled", "True", {})], [BACK_OFF])],
            [],
            'ImagePullBackOff: Back-off pulling image "no/such"',
        ),
        (
            "",
            [pod([("PodScheduled", "False", {"reason": "Unschedulable", "message": "unbound claims"})])],
            [
                warning("PersistentVolumeClaim", f"{CREATED}-data", "ProvisioningFailed", 'no class "fast"'),
                warning("PersistentVolumeClaim", "another-data", "ProvisioningFailed", "another's"),
            ],
            f'volume {CREATED}-data: ProvisioningFailed: no class "fast"',
        ),
        (
            "ContainerCreating",
            [pod([("PodScheduled", "True", {})], [{"reason": "PodInitializing"}])],
            [
                warning("Pod", POD, "FailedAttachVolume", "Multi-Attach error", "2026-01-01T10:02:00Z"),
                warning("Pod", f"{CREATED}-fetch-dump-1", "BackOff", "another's"),
            ],
            "FailedAttachVolume: Multi-Attach error",
        ),
    ],
)  # fmt: skip
def test_a_step_that_waits_says_for_what(
    way: str, message: str, pods: Any, warnings: Any, said: str, tmp_path: Path
) -> None:
    attempt = node(77, "train-detr(0)", "Pending", message=message)
    retry = node(5, "train-detr", "Running", type="Retry", children=[attempt["id"]])
    states = [status("Running", FETCHED, retry, attempt), GOOD[-1]]
    with cluster_double(states=states, pods=pods, warnings=warnings) as double:
        result = pipelines("watch", CREATED, env=environment(way, double, tmp_path))
    assert result.returncode == 0, result.stdout + result.stderr
    (line,) = (each for each in result.stdout.splitlines() if each.startswith("train-detr") and "Pending" in each)
    assert said in line
    assert "another's" not in line
    assert "preemption" not in line
    assert "train-detr           Running" not in result.stdout, "it never ran"


@pytest.mark.parametrize("way", WAYS)
def test_a_second_attempt_says_what_ended_the_first(way: str, tmp_path: Path) -> None:
    first = node(6, "train-detr(0)", "Failed", message="OOMKilled (exit code 137)")
    second = node(77, "train-detr(1)", "Running")
    retry = node(5, "train-detr", "Running", type="Retry", children=[first["id"], second["id"]])
    waits = {**retry, "children": [first["id"]]}
    states = [status("Running", waits, first), status("Running", retry, first, second), GOOD[-1]]
    with cluster_double(states=states) as double:
        result = pipelines("watch", CREATED, env=environment(way, double, tmp_path))
    lines = [" ".join(line.split()) for line in result.stdout.splitlines()]
    assert "train-detr Pending attempt 1 failed: OOMKilled (exit code 137)" in lines
    assert "train-detr Running attempt 2, after: OOMKilled (exit code 137)" in lines


@pytest.mark.parametrize("way", WAYS)
def test_who_may_not_see_pods_and_events_sees_what_argo_says(way: str, tmp_path: Path) -> None:
    states = [status("Running", node(77, "train-detr", "Pending", message=f"Unschedulable: {NO_GPU}")), GOOD[-1]]
    with cluster_double(states=states, forbidden=("/pods", "/events/", "/events")) as double:
        result = pipelines("watch", CREATED, env=environment(way, double, tmp_path))
    assert result.returncode == 0, result.stdout + result.stderr
    assert "Insufficient nvidia.com/gpu" in result.stdout


@pytest.mark.parametrize("way", WAYS)
def test_a_workflow_that_nobody_takes_up_says_so(way: str, tmp_path: Path) -> None:
    waiting = {"phase": "Pending", "message": "Waiting for team/Mutex/x lock. Lock status: 0/1"}
    with cluster_double(states=[{}, waiting, GOOD[-1]]) as double:
        result = pipelines("watch", CREATED, env=environment(way, double, tmp_path))
    assert "no controller has taken it up" in result.stdout
    assert "Waiting for team/Mutex/x lock" in result.stdout


@pytest.mark.parametrize("way", WAYS)
def test_a_silent_connection_is_left_and_the_state_asked_for_anew(
    way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (argo_server, kubernetes):
        monkeypatch.setattr(module, "WATCH_SECONDS", 1)
        monkeypatch.setattr(module, "GRACE_SECONDS", -0.8)
    with cluster_double(states=GOOD[1:], silent=True) as double:
        result = pipelines("watch", CREATED, env=environment(way, double, tmp_path))
    assert result.returncode == 0, result.stdout + result.stderr
    assert f"{CREATED} Succeeded" in result.stdout
    assert result.stdout.count("trying again in") == 1, "said once, however often"


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
    with cluster_double(states=list(BAD), log=["x"], template=template) as double:
        env = environment("argo", double, tmp_path)
        pipelines("submit", DUMP, "--watch", env=env)
        pipelines("submit", "--from-template", "detr-training", DUMP, env=env)
        for command in ("list", "logs", "retry"):
            pipelines(command, *([CREATED] if command != "list" else []), env=env)
        for double.moment in (0, 1):
            pipelines("stop", CREATED, env=env)
        double.states[0] = status("Pending", node(77, "train-detr", "Pending"))
        double.moment = 0
        pipelines("watch", CREATED, env=env)
    ways = {
        (method, re.sub(f"/({NAMESPACE}|{CREATED}|detr-training)", "", path)) for method, path, _, _ in double.asked
    }
    assert len(ways) >= 8, ways
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
