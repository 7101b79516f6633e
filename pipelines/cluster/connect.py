"""Reach the cluster that the environment configures."""

import os
from collections.abc import Mapping

from pipelines.cluster.argo_server import ArgoServer
from pipelines.cluster.kubernetes import Kubernetes
from pipelines.cluster.protocol import Cluster
from pipelines.errors import PipelineError


def connect(via: str, *, context: str = "", namespace: str = "", environ: Mapping[str, str] = os.environ) -> Cluster:
    """Reach the cluster that the environment configures.

    Args:
        via: `argo` (the server of `ARGO_SERVER`), `kubernetes` (kubeconfig, or the pod that we run in), or
            `auto`: the first of the two that is configured.
        context: of the kubeconfig. Empty: its current one.
        namespace: where workflows go. Empty: `ARGO_NAMESPACE`, else the context's, else `default`.
        environ: the environment.

    Raises:
        PipelineError: neither is configured, or the configuration cannot be read.
    """
    namespace = namespace or environ.get("ARGO_NAMESPACE", "")
    if via == "argo" or (via == "auto" and environ.get("ARGO_SERVER")):
        return ArgoServer(environ, namespace or "default")
    if via not in ("auto", "kubernetes"):
        raise PipelineError(f"--via is '{via}': expected auto, argo or kubernetes")
    return Kubernetes(context, namespace, environ)
