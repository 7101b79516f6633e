"""The manifests, made from the workflow in `pipelines.workflow.dag`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from pipelines.workflow.across_nodes import JOBSET
from pipelines.workflow.contract import LABELS
from pipelines.workflow.dag import training_workflow
from pipelines.workflow.options import Options, Target, workflow_parameters
from pipelines.workflow.parameters import ANNOTATION_PATH

HEADER = "# Made by `make compile` from pipelines/workflow/. Change that, not this.\n"
ONEPANEL_HEADER = (
    HEADER
    + """#
# Paste this into Onepanel's template editor (Workflows > Workflow templates > Create template), and give the
# template the label below in the same dialog: CVAT offers only templates that carry it.
#
#   {label}
#
"""
)

RBAC = Path("argo/rbac.yaml")
RBAC_HEADER = (
    HEADER
    + """#
# Apply it once per namespace: what Argo's part in each pod needs, and a role to bind to those who submit and watch.
"""
)


def manifests(options: Options) -> dict[Path, str]:
    """Make every form of the workflow, by its path below the folder of manifests."""
    argo = training_workflow(Target.ARGO, options).to_dict()
    onepanel = training_workflow(Target.ONEPANEL, options).to_dict()["spec"]
    onepanel["arguments"]["parameters"] = [
        _form_field(parameter) for parameter in workflow_parameters(Target.ONEPANEL, options)
    ]
    # Core makes the pods' metadata itself.
    onepanel.pop("podMetadata")
    metadata = {key: value for key, value in argo["metadata"].items() if key != "generateName"}
    template = {
        "apiVersion": argo["apiVersion"],
        "kind": "WorkflowTemplate",
        "metadata": {"name": options.name, **metadata},
        "spec": argo["spec"],
    }
    label = ", ".join(f"{key}: {value}" for key, value in LABELS.items())
    return {
        Path(f"onepanel/{options.name}.yaml"): ONEPANEL_HEADER.format(label=label) + _yaml(onepanel),
        Path(f"argo/{options.name}.workflowtemplate.yaml"): HEADER + _yaml(template),
        Path(f"argo/{options.name}.workflow.yaml"): HEADER + _yaml(argo),
        RBAC: RBAC_HEADER + _yaml(rbac(options)),
        **({Path(f"argo/{options.name}.cronworkflow.yaml"): HEADER + _yaml(cron(options))} if options.schedule else {}),
    }


def cron(options: Options) -> dict[str, Any]:
    """Make the CronWorkflow that trains again whenever the dump has changed."""
    document = training_workflow(Target.ARGO, options, again=True).to_dict()
    for parameter in document["spec"]["arguments"]["parameters"]:
        if parameter["name"] == ANNOTATION_PATH.name:
            parameter["value"] = options.schedule_dump
    metadata = {key: value for key, value in document["metadata"].items() if key != "generateName"}
    return {
        "apiVersion": document["apiVersion"],
        "kind": "CronWorkflow",
        "metadata": {"name": options.name, **metadata},
        "spec": {
            "schedules": [options.schedule],
            **({"timezone": options.timezone} if options.timezone else {}),
            # Two at once would both replace the latest model.
            "concurrencyPolicy": "Forbid",
            "startingDeadlineSeconds": 600,
            "workflowMetadata": {"labels": LABELS},
            "workflowSpec": document["spec"],
        },
    }


def rbac(options: Options) -> dict[str, Any]:
    """Make what the pods are allowed, and a role for those who submit: lists of Kubernetes objects."""
    api = "rbac.authorization.k8s.io"

    def named(kind: str, name: str, group: str = f"{api}/v1", **more: Any) -> dict[str, Any]:
        place = {"namespace": options.namespace} if options.namespace else {}
        return {"apiVersion": group, "kind": kind, "metadata": {"name": name, **place}, **more}

    def rule(group: str, resources: list[str], verbs: list[str]) -> dict[str, Any]:
        return {"apiGroups": [group], "resources": resources, "verbs": verbs}

    account = options.service_account or "default"
    subject = {"kind": "ServiceAccount", "name": account}
    if options.namespace:
        subject["namespace"] = options.namespace
    pods, users = f"{options.name}-pods", f"{options.name}-users"
    items = [
        named(
            "Role",
            pods,
            rules=[
                rule("argoproj.io", ["workflowtaskresults"], ["create", "patch"]),
                *(
                    [rule(JOBSET, ["jobsets"], ["create", "get", "list", "patch", "watch"])]
                    if options.nodes > 1
                    else []
                ),
            ],
        ),
        named("RoleBinding", pods, subjects=[subject], roleRef={"apiGroup": api, "kind": "Role", "name": pods}),
        named(
            "Role",
            users,
            rules=[
                rule("argoproj.io", ["workflows"], ["create", "delete", "get", "list", "patch", "update", "watch"]),
                rule("argoproj.io", ["workflowtemplates"], ["get", "list"]),
                rule("", ["pods", "pods/log", "events"], ["get", "list", "watch"]),
            ],
        ),
    ]
    if options.service_account:
        items.insert(0, named("ServiceAccount", account, group="v1"))
    return {"apiVersion": "v1", "kind": "List", "items": items}


def _form_field(parameter: Any) -> dict[str, Any]:
    """Return a parameter with the keys that Onepanel's forms read."""
    field: dict[str, Any] = {
        "name": parameter.name,
        "value": parameter.value,
        "displayName": parameter.display_name,
        "hint": parameter.hint,
        "type": parameter.type,
        "visibility": parameter.visibility,
    }
    if parameter.required:
        field["required"] = True
    if parameter.options:
        field["options"] = [{"name": option, "value": option} for option in parameter.options]
    return field


class _Dumper(yaml.SafeDumper):
    """Writes values that are used twice in full: a reviewer reads no anchors."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _yaml(document: Mapping[str, Any]) -> str:
    return yaml.dump(document, Dumper=_Dumper, sort_keys=False, width=110, allow_unicode=True)
