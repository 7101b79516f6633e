"""What Argo would drop or refuse in its own manifests: fields that Hera's models do not know, missing labels."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from hera.workflows import models as m
from pydantic import BaseModel, ValidationError

from pipelines.manifest.argo_pods import pods_of_argo
from pipelines.manifest.onepanel_pods import PodError
from pipelines.manifest.pod_rules import Fault, claim_faults, is_dns_label, is_dns_subdomain, pod_faults
from pipelines.manifest.pod_security import restricted_faults
from pipelines.workflow.contract import LABELS

KINDS: dict[str, type[BaseModel]] = {
    "Workflow": m.Workflow,
    "WorkflowTemplate": m.WorkflowTemplate,
    "CronWorkflow": m.CronWorkflow,
}


def lint_argo(document: Mapping[str, Any]) -> list[str]:
    """List what Argo would drop or refuse in a Workflow, WorkflowTemplate or CronWorkflow."""
    if document.get("kind") == "List":
        return [problem for each in document.get("items") or [] for problem in _names(each.get("metadata") or {})]
    if document.get("kind") not in KINDS:
        return [f"kind is '{document.get('kind')}', expected one of {', '.join(KINDS)}, or a List of what they need"]
    try:
        known = KINDS[document["kind"]].model_validate(document)
    except ValidationError as error:
        return [f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors(include_url=False)]
    understood = known.model_dump(by_alias=True, exclude_none=True, mode="json")
    problems = [f"{field} is not a field that Argo knows" for field in lost_fields(document, understood)]
    metadata = document["metadata"]
    problems += _names(metadata)
    document = _workflow(document)
    for place in (metadata, document["spec"].get("podMetadata") or {}):
        if not LABELS.items() <= place.get("labels", {}).items():
            problems.append(f"the label {LABELS} is missing from the workflow or its pods")
    return [*problems, *_refused(document, pod_faults)]


def lint_restricted(document: Mapping[str, Any]) -> list[str]:
    """List what keeps a workflow's pods out of a namespace that enforces Pod Security "restricted"."""
    return _refused(_workflow(document), restricted_faults) if document.get("kind") in KINDS else []


def _workflow(document: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a manifest as one of the workflow itself, which a CronWorkflow wraps."""
    spec = document["spec"]
    return {**document, "spec": spec["workflowSpec"]} if "workflowSpec" in spec else document


def _names(metadata: Mapping[str, Any]) -> Iterator[str]:
    given = metadata.get("name") or metadata.get("generateName", "")
    # The API server appends letters and digits to a `generateName`.
    if not is_dns_subdomain(given if metadata.get("name") else f"{given}x"):
        yield (
            f"the name '{given}' has other characters than lower-case letters, "
            "digits, '-' and '.': compile with another --name"
        )
    if metadata.get("namespace") and not is_dns_label(metadata["namespace"]):
        yield f"the namespace '{metadata['namespace']}' is none that Kubernetes takes: compile with another --namespace"


def _refused(document: Mapping[str, Any], check: Callable[[Mapping[str, Any]], Iterable[Fault]]) -> list[str]:
    """List the faults of a workflow's claims and pods, each once."""
    try:
        pods = pods_of_argo(document)
    except PodError as error:
        return [str(error)]
    found: dict[str, list[str]] = {}
    for name, pod in pods.items():
        for fault in check(pod):
            found.setdefault(str(fault), []).append(name)
    claims = document["spec"].get("volumeClaimTemplates", []) if check is pod_faults else []
    return [
        *(
            f"the volume claim '{claim['metadata']['name']}' would be refused: {fault}"
            for claim in claims
            for fault in claim_faults(claim)
        ),
        *(f"Kubernetes would refuse the pod of {', '.join(names)}: {fault}" for fault, names in found.items()),
    ]


def lost_fields(written: Any, understood: Any, place: str = "") -> Iterator[str]:
    """Name the fields of a document that a reader did not take over."""
    if isinstance(written, dict):
        for key, value in written.items():
            where = f"{place}.{key}".lstrip(".")
            if isinstance(understood, dict) and key in understood:
                yield from lost_fields(value, understood[key], where)
            else:
                yield where
    elif isinstance(written, list) and isinstance(understood, list):
        for index, (mine, theirs) in enumerate(zip(written, understood, strict=False)):
            yield from lost_fields(mine, theirs, f"{place}[{index}]")
