"""Create the workflow on a cluster."""

import copy
from collections.abc import Mapping
from typing import Any

from pipelines.cluster.errors import ConnectionLostError
from pipelines.cluster.protocol import GROUP, VERSION, Cluster, Document
from pipelines.errors import PipelineError
from pipelines.manifest.reader import Manifest
from pipelines.workflow.contract import LABELS


def submit(cluster: Cluster, manifest: Manifest, overrides: Mapping[str, str], template: str = "") -> str:
    """Create a workflow; return its name.

    Args:
        cluster: where to.
        manifest: the compiled workflow.
        overrides: workflow parameters.
        template: name of an installed workflow template to refer to, instead of carrying the spec along.

    Raises:
        PipelineError: a parameter is unknown or refused by its step, or the cluster refuses; nothing was sent
            in the first case.
    """
    if template:
        installed = _until_answered(lambda: cluster.template(template))
        manifest = Manifest(manifest.path, installed.get("metadata", {}), installed["spec"])
    manifest.check(overrides)
    if template:
        arguments = {"parameters": [{"name": name, "value": value} for name, value in overrides.items()]}
        spec: Document = {"workflowTemplateRef": {"name": template}, "arguments": arguments}
        metadata: Document = {"generateName": f"{template}-", "labels": dict(LABELS)}
    else:
        spec = copy.deepcopy(dict(manifest.spec))
        for parameter in spec.get("arguments", {}).get("parameters", []):
            parameter["value"] = overrides.get(parameter["name"], parameter["value"])
        metadata = {**manifest.metadata}
    metadata["namespace"] = cluster.namespace
    workflow = {"apiVersion": f"{GROUP}/{VERSION}", "kind": "Workflow", "metadata": metadata, "spec": spec}
    try:
        # Never sent twice: whether a request arrived before its connection broke cannot be known.
        return cluster.create(workflow)
    except ConnectionLostError as error:
        raise PipelineError(
            f"{error}: it is unknown whether the workflow was submitted, check with `argo list` before trying again"
        ) from None


def _until_answered(ask: Any) -> Any:
    try:
        return ask()
    except ConnectionLostError as error:
        raise PipelineError(f"{error}: check the address and that it is up") from None
