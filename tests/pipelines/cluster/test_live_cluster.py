"""Against a real cluster with Argo Workflows, where `KUBECONFIG` or `ARGO_SERVER` names one.

The first test needs no more than that (and an image with a shell, `CLUSTER_SHELL_IMAGE`). The second runs the
pipeline itself: it needs an image with this project and its extra `train` in `CLUSTER_IMAGE`, a bucket that the secret
`cvat-detr-storage` (or the pods' identity) opens, and a dump in it at `CLUSTER_DUMP`.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

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
