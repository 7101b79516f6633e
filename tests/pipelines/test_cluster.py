"""Against a real cluster, where `KUBECONFIG` or `ARGO_SERVER` names one.

It needs Argo Workflows, a bucket that the secret `cvat-detr-storage` (or the pods' identity) opens, and an image with
this project and its extra `train` in `CLUSTER_IMAGE`; a dump must lie at `CLUSTER_DUMP` in the bucket.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]
NEEDED = ("CLUSTER_IMAGE", "CLUSTER_DUMP")

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif(
        not (os.environ.get("KUBECONFIG") or os.environ.get("ARGO_SERVER")),
        reason="no cluster: neither KUBECONFIG nor ARGO_SERVER is set",
    ),
    pytest.mark.skipif(
        not all(os.environ.get(name) for name in NEEDED), reason=f"the cluster test needs {' and '.join(NEEDED)}"
    ),
]


def test_a_small_run_succeeds(tmp_path: Path) -> None:
    compile_ = ["compile", "--output", str(tmp_path), "--image", os.environ.get("CLUSTER_IMAGE", ""), "--gpus", "0"]
    submit = [
        "submit",
        "--watch",
        "--manifest",
        str(tmp_path / "argo" / "detr-training.workflow.yaml"),
        *(f"--param={each}" for each in ("model=detr_tiny", "epochs=1")),
        f"--param=cvat-annotation-path={os.environ.get('CLUSTER_DUMP', '')}",
    ]
    for arguments in ([*compile_, "--volume-size", "2Gi"], submit):
        command = [sys.executable, "-m", "pipelines", *arguments]
        done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
    assert "Succeeded" in done.stdout
