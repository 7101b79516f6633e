"""Against a real cluster with Argo Workflows, where `KUBECONFIG` or `ARGO_SERVER` names one.

The first test needs no more than that (and an image with a shell, `CLUSTER_SHELL_IMAGE`). Those that run the pipeline
itself need an image with this project and its extra `train` in `CLUSTER_IMAGE`, a bucket that the secret
`cvat-detr-storage` (or the pods' identity) opens, and a dump in it at `CLUSTER_DUMP`. Those about what the API server
admits need `KUBECONFIG` and the right to make a namespace; nothing is started, and the namespace goes with the test.
"""

import os
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from kubernetes import client as k8s
from kubernetes import config as k8s_config
from kubernetes import utils as k8s_utils
from kubernetes.client.exceptions import ApiException

from pipelines.manifest.argo_pods import pods_of_argo
from pipelines.manifest.argo_rules import lost_fields
from pipelines.workflow.compile import manifests
from pipelines.workflow.options import Options

PROJECT = Path(__file__).parents[3]
NEEDED = ("CLUSTER_IMAGE", "CLUSTER_DUMP")

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif(
        not (os.environ.get("KUBECONFIG") or os.environ.get("ARGO_SERVER")),
        reason="no cluster: neither KUBECONFIG nor ARGO_SERVER is set",
    ),
]


def pipelines(*arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "pipelines", *arguments]
    return subprocess.run(command, cwd=PROJECT, capture_output=True, text=True)


@pytest.mark.parametrize(("status", "phase"), [("0", "Succeeded"), ("3", "Failed")])
def test_a_workflow_is_submitted_and_watched_to_its_end(tmp_path: Path, status: str, phase: str) -> None:
    container = {
        "image": os.environ.get("CLUSTER_SHELL_IMAGE", "alpine:3"),
        "command": ["sh", "-c"],
        "args": ["echo last words; exit $0", "{{workflow.parameters.status}}"],
    }
    spec = {
        "entrypoint": "main",
        "arguments": {"parameters": [{"name": "status", "value": "0"}]},
        "templates": [
            {"name": "main", "dag": {"tasks": [{"name": "only-step", "template": "box"}]}},
            {"name": "box", "container": container},
        ],
    }
    workflow = {"apiVersion": "argoproj.io/v1alpha1", "kind": "Workflow", "metadata": {"generateName": "slim-"}}
    path = tmp_path / "slim.yaml"
    path.write_text(yaml.safe_dump({**workflow, "spec": spec}))
    done = pipelines("submit", "--watch", "--manifest", str(path), "--param", f"status={status}")
    assert done.returncode == int(phase != "Succeeded"), done.stdout + done.stderr
    assert phase in done.stdout
    assert ("last words" in done.stdout) is (phase == "Failed")


@pytest.mark.skipif(
    not all(os.environ.get(name) for name in NEEDED), reason=f"running the pipeline needs {' and '.join(NEEDED)}"
)
def test_the_pipeline_succeeds(tmp_path: Path) -> None:
    image, dump = (os.environ[name] for name in NEEDED)
    done = pipelines("compile", "--output", str(tmp_path), "--image", image, "--gpus", "0", "--volume-size", "2Gi")
    assert done.returncode == 0, done.stdout + done.stderr
    manifest = tmp_path / "argo" / "detr-training.workflow.yaml"
    parameters = ("model=ddq_lite0", "epochs=1", f"cvat-annotation-path={dump}")
    done = pipelines("submit", "--watch", "--manifest", str(manifest), *(f"--param={each}" for each in parameters))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Succeeded" in done.stdout


@pytest.mark.skipif(not all(os.environ.get(name) for name in NEEDED), reason=f"a sweep needs {' and '.join(NEEDED)}")
def test_a_sweep_makes_its_data_once_and_its_runs_end(tmp_path: Path) -> None:
    image, dump = (os.environ[name] for name in NEEDED)
    done = pipelines("compile", "--output", str(tmp_path), "--image", image, "--gpus", "0", "--volume-size", "2Gi")
    assert done.returncode == 0, done.stdout + done.stderr
    manifest = tmp_path / "argo" / "detr-training.workflow.yaml"
    parameters = ("model=ddq_lite0", "epochs=1", "seed=0,1", f"cvat-annotation-path={dump}")
    flags = [f"--param={each}" for each in parameters]
    done = pipelines("sweep", "--cluster", "--at-once", "2", "--manifest", str(manifest), *flags)
    assert done.returncode == 0, done.stdout + done.stderr
    names = [line.split()[0] for line in done.stdout.splitlines() if line.startswith("  ")]
    assert len(names) == 2
    for name in (f"{names[0].rpartition('-')[0]}-data", *names):
        watched = pipelines("watch", name)
        assert watched.returncode == 0, watched.stdout + watched.stderr


GROUP, VERSION = "argoproj.io", "v1alpha1"
DRY_RUN = "All"
ENFORCED = {"pod-security.kubernetes.io/enforce": "restricted"}
ADMITTED: dict[str, dict[str, Any]] = {
    "defaults": {},
    "all steps": {"image": "r.example.com/detr:1", "annotate": True, "reuse_data": True, "artifacts": True, "gpus": 4},
    "several nodes": {"image": "r.example.com/detr:1", "nodes": 2, "queue": "team"},
    "private": {"git_secret": "git", "image_pull_secrets": ["registry"], "node_labels": {"zone": "a"}},
    "again at night": {"schedule": "0 3 * * *", "schedule_dump": "dumps/7/", "timezone": "Europe/Berlin"},
}
needs_kubernetes = pytest.mark.skipif(not os.environ.get("KUBECONFIG"), reason="KUBECONFIG is not set")


def compiled(**settings: Any) -> dict[str, dict[str, Any]]:
    """The manifests for Argo by their kind."""
    made = [yaml.safe_load(text) for text in manifests(Options.create(settings)).values()]
    return {document["kind"]: document for document in made if "kind" in document}


@pytest.fixture
def api() -> k8s.ApiClient:
    return k8s_config.new_client_from_config()


@pytest.fixture
def restricted(api: k8s.ApiClient) -> Iterator[str]:
    """A namespace that enforces Pod Security "restricted"."""
    core, name = k8s.CoreV1Api(api), f"cvat-detr-{uuid.uuid4().hex[:8]}"
    core.create_namespace({"metadata": {"name": name, "labels": ENFORCED}})
    try:
        # No pod is admitted before its account is there, which a controller makes.
        deadline = time.monotonic() + 60
        while not core.list_namespaced_service_account(name).items and time.monotonic() < deadline:
            time.sleep(1)
        yield name
    finally:
        core.delete_namespace(name)


def pods(**settings: Any) -> Iterator[dict[str, Any]]:
    made = compiled(**settings)
    workflow = made.get("CronWorkflow") or made["Workflow"]
    spec = workflow["spec"].get("workflowSpec", workflow["spec"])
    for pod in pods_of_argo({"metadata": workflow["metadata"], "spec": spec}).values():
        yield {"apiVersion": "v1", "kind": "Pod", **pod}


@needs_kubernetes
@pytest.mark.parametrize("settings", ADMITTED.values(), ids=ADMITTED)
def test_every_pod_is_admitted_where_restricted_is_enforced(
    settings: dict[str, Any], api: k8s.ApiClient, restricted: str
) -> None:
    for pod in pods(**settings):
        k8s.CoreV1Api(api).create_namespaced_pod(restricted, pod, dry_run=DRY_RUN)


@needs_kubernetes
def test_a_pod_that_is_not_restricted_is_kept_out(api: k8s.ApiClient, restricted: str) -> None:
    for pod in pods(restricted=False):
        with pytest.raises(ApiException, match="violates PodSecurity") as refused:
            k8s.CoreV1Api(api).create_namespaced_pod(restricted, pod, dry_run=DRY_RUN)
        assert refused.value.status == 403


@needs_kubernetes
@pytest.mark.parametrize("settings", ADMITTED.values(), ids=ADMITTED)
def test_the_api_server_takes_every_field(settings: dict[str, Any], api: k8s.ApiClient, restricted: str) -> None:
    for kind, document in compiled(**settings).items():
        if kind == "List":
            k8s_utils.create_from_dict(api, document, namespace=restricted, dry_run=DRY_RUN)
        else:
            kept = k8s.CustomObjectsApi(api).create_namespaced_custom_object(
                GROUP, VERSION, restricted, f"{kind.lower()}s", document, dry_run=DRY_RUN, field_validation="Strict"
            )
            assert list(lost_fields(document, kept)) == []


@needs_kubernetes
def test_a_schedule_is_kept_until_it_is_removed(api: k8s.ApiClient, restricted: str) -> None:
    cron = compiled(**ADMITTED["again at night"])["CronWorkflow"]
    name, place = cron["metadata"]["name"], (GROUP, VERSION, restricted, "cronworkflows")
    cron["spec"]["suspend"] = True
    custom = k8s.CustomObjectsApi(api)
    custom.create_namespaced_custom_object(*place, cron)
    kept: Any = custom.get_namespaced_custom_object(*place, name)
    assert (kept["spec"]["schedules"], kept["spec"]["timezone"], kept["spec"]["suspend"]) == (
        ["0 3 * * *"], "Europe/Berlin", True,
    )  # fmt: skip
    custom.delete_namespaced_custom_object(*place, name)
    with pytest.raises(ApiException) as gone:
        custom.get_namespaced_custom_object(*place, name)
    assert gone.value.status == 404
