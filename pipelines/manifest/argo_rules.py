"""What Argo would drop or refuse in its own manifests: fields that Hera's models do not know, missing labels."""

from collections.abc import Iterator, Mapping
from typing import Any

from hera.workflows import models as m
from pydantic import BaseModel, ValidationError

from pipelines.manifest.pod_rules import is_dns_subdomain
from pipelines.workflow.contract import LABELS

KINDS: dict[str, type[BaseModel]] = {"Workflow": m.Workflow, "WorkflowTemplate": m.WorkflowTemplate}


def lint_argo(document: Mapping[str, Any]) -> list[str]:
    """List what Argo would drop or refuse in a Workflow or WorkflowTemplate."""
    if document.get("kind") not in KINDS:
        return [f"kind is '{document.get('kind')}', expected Workflow or WorkflowTemplate"]
    try:
        known = KINDS[document["kind"]].model_validate(document)
    except ValidationError as error:
        return [f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors(include_url=False)]
    understood = known.model_dump(by_alias=True, exclude_none=True, mode="json")
    problems = [f"{field} is not a field that Argo knows" for field in lost_fields(document, understood)]
    metadata = document["metadata"]
    given = metadata.get("name") or metadata.get("generateName", "")
    # The API server appends letters and digits to a `generateName`.
    if not is_dns_subdomain(given if metadata.get("name") else f"{given}x"):
        problems.append(
            f"the name '{given}' has other characters than lower-case letters, "
            "digits, '-' and '.': compile with another --name"
        )
    for place in (metadata, document["spec"].get("podMetadata") or {}):
        if not LABELS.items() <= place.get("labels", {}).items():
            problems.append(f"the label {LABELS} is missing from the workflow or its pods")
    return problems


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
