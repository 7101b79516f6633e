"""Create the workflow on a cluster."""

import copy
from collections.abc import Mapping
from typing import Any

from pipelines.cluster.errors import ConnectionLostError
from pipelines.cluster.protocol import GROUP, INSTANCE_LABEL, VERSION, Cluster, Document
from pipelines.cluster.source import refuse_other_key
from pipelines.errors import PipelineError
from pipelines.manifest.reader import Manifest
from pipelines.workflow.contract import LABELS
from pipelines.workflow.parameters import ANNOTATION_PATH


def build_workflow(manifest: Manifest, overrides: Mapping[str, str], template: str = "") -> Document:
    """Make the workflow to send, every value checked.

    Args:
        manifest: the compiled workflow; with `template`, that template.
        overrides: workflow parameters.
        template: name of an installed workflow template to refer to, instead of carrying the spec along.

    Raises:
        PipelineError: a parameter is unknown, missing, or refused by its step; the pods have no key for its source.
    """
    manifest.parameters(overrides)
    _demand(manifest, overrides)
    manifest.check(overrides)
    refuse_other_key(manifest, overrides)
    if template:
        arguments = {"parameters": [{"name": name, "value": value} for name, value in overrides.items()]}
        spec: Document = {"workflowTemplateRef": {"name": template}, "arguments": arguments}
        metadata: Document = {"generateName": f"{template}-", "labels": dict(LABELS)}
    else:
        spec = copy.deepcopy(dict(manifest.spec))
        for parameter in spec.get("arguments", {}).get("parameters", []):
            if parameter["name"] in overrides:
                parameter["value"] = overrides[parameter["name"]]
        metadata = copy.deepcopy(dict(manifest.metadata))
    return {"apiVersion": f"{GROUP}/{VERSION}", "kind": "Workflow", "metadata": metadata, "spec": spec}


def _demand(manifest: Manifest, overrides: Mapping[str, str]) -> None:
    """Refuse to go on without what only the user can know."""
    for parameter in manifest.spec.get("arguments", {}).get("parameters", []):
        name = parameter["name"]
        given = "value" in parameter or "valueFrom" in parameter
        # As compiled, it holds the folder of all dumps, which CVAT's form replaces.
        if name == ANNOTATION_PATH.name:
            given = given and parameter.get("value") != ANNOTATION_PATH.value
        if name not in overrides and not given:
            hint = ANNOTATION_PATH.hint if name == ANNOTATION_PATH.name else parameter.get("description", "")
            raise PipelineError(f"parameter '{name}' is required: give --param {name}=…{f' ({hint})' if hint else ''}")


def installed(cluster: Cluster, manifest: Manifest, template: str) -> Manifest:
    """Return a template that is installed in the cluster.

    Raises:
        PipelineError: it is not there, or the cluster does not answer.
    """
    found = until_answered(lambda: cluster.template(template))
    return Manifest(manifest.path, found.get("metadata", {}), found["spec"])


def addressed(workflow: Document, namespace: str, instance_id: str) -> Document:
    """Return a workflow with its namespace and its controller's label, where they are given."""
    metadata = dict(workflow["metadata"])
    if namespace:
        metadata["namespace"] = namespace
    if instance_id:
        metadata["labels"] = {**metadata.get("labels", {}), INSTANCE_LABEL: instance_id}
    return {**workflow, "metadata": metadata}


def send(cluster: Cluster, workflow: Document) -> Document:
    """Create a workflow; return it as the cluster made it.

    Raises:
        PipelineError: the cluster refuses, or is lost.
    """
    try:
        # Never sent twice: whether a request arrived before its connection broke cannot be known.
        return cluster.create(addressed(workflow, cluster.namespace, cluster.instance_id))
    except ConnectionLostError as error:
        raise PipelineError(
            f"{error}: it is unknown whether the workflow was submitted, look with `cvat-detr list` before trying again"
        ) from None


def until_answered(ask: Any) -> Any:
    """Ask a cluster; say in one line that it does not answer."""
    try:
        return ask()
    except ConnectionLostError as error:
        raise PipelineError(f"{error}: check the address and that it is up") from None
