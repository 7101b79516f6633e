"""The two ways to the double of a cluster."""

import os
from pathlib import Path

import yaml

from tests.pipelines.cluster.double import NAMESPACE, TOKEN, Double
from tests.pipelines.command import Done

WAYS = ["argo", "kubernetes"]
DUMP = "--param=cvat-annotation-path=annotation-dump/7/"


def environment(
    way: str, double: Double, folder: Path, token: str = TOKEN, namespace: str = NAMESPACE
) -> dict[str, str]:
    """Configure one way to the cluster, and no other."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("ARGO_", "KUBE"))}
    clean["HOME"] = str(folder)
    if way == "argo":
        return {
            **clean,
            "ARGO_SERVER": double.address,
            "ARGO_SECURE": "false",
            "ARGO_TOKEN": f"Bearer {token}",
            "ARGO_NAMESPACE": namespace,
        }
    kubeconfig = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "here",
        "contexts": [{"name": "here", "context": {"cluster": "c", "user": "u", "namespace": namespace}}],
        "clusters": [{"name": "c", "cluster": {"server": f"http://{double.address}"}}],
        "users": [{"name": "u", "user": {"token": token}}],
    }
    path = folder / "kubeconfig"
    path.write_text(yaml.safe_dump(kubeconfig))
    return {**clean, "KUBECONFIG": str(path)}


def refused(result: Done) -> str:
    assert TOKEN not in result.stdout + result.stderr
    return result.refusal
