"""The pods that Argo Workflows makes of a workflow's containers, as far as Kubernetes' checks look at them.

Source: argoproj/argo-workflows v4.1.2, workflow/controller/workflowpod.go (`podBuilder.build`,
`addInputArtifactsVolumes`, `addSidecars`, `addSchedulingConstraints`), with an executor that is not configured.
"""

import copy
import json
from collections.abc import Mapping
from typing import Any

import yaml

from pipelines.manifest.onepanel_pods import PodError, replaced

Document = dict[str, Any]

EXECUTOR_IMAGE = "quay.io/argoproj/argoexec:v4.1.2"
OWN_VOLUMES = {"var-run-argo": "/var/run/argo", "tmp-dir-argo": "/tmp"}  # noqa: S108


def pods_of_argo(document: Mapping[str, Any]) -> dict[str, Document]:
    """Make the pod of each container template of a Workflow or WorkflowTemplate, by the template's name.

    Raises:
        PodError: Argo would make no pod, since a volume or a parameter is unknown.
    """
    spec, metadata = document["spec"], document["metadata"]
    workflow = metadata.get("name") or f"{metadata.get('generateName', '')}x7k2p"
    given = {each["name"]: str(each.get("value", "")) for each in spec.get("arguments", {}).get("parameters", [])}
    values = {f"workflow.parameters.{name}": value for name, value in given.items()}
    # The expression that a manifest inside the manifest quotes them with.
    values |= {f"=toJson(workflow.parameters['{name}'])": json.dumps(value) for name, value in given.items()}
    values |= {"workflow.name": workflow, "workflow.namespace": metadata.get("namespace", "default")}
    return {
        template["name"]: _pod(spec, replaced(template, values), workflow)
        for template in spec["templates"]
        if "container" in template or "resource" in template
    }


def _pod(spec: Mapping[str, Any], template: Document, workflow: str) -> Document:
    if "resource" in template:
        # A JobSet's, which Argo itself makes no pods of.
        (jobs,) = yaml.safe_load(template["resource"]["manifest"])["spec"]["replicatedJobs"]
        of_job: Document = jobs["template"]["spec"]["template"]
        return {"metadata": {"name": f"{workflow}-train-node-0-0-abcde", **of_job["metadata"]}, "spec": of_job["spec"]}
    main = {**copy.deepcopy(template["container"]), "name": "main"}
    mounts: list[Document] = main.setdefault("volumeMounts", [])
    known = {each["name"]: each for each in spec.get("volumes", [])}
    for claim in spec.get("volumeClaimTemplates", []):
        name = claim["metadata"]["name"]
        known[name] = {"name": name, "persistentVolumeClaim": {"claimName": f"{workflow}-{name}"}}
    side_cars: list[Document] = copy.deepcopy(template.get("sidecars", []))
    volumes = [{"name": name, "emptyDir": {}} for name in OWN_VOLUMES]
    for mount in [*mounts, *(mount for each in side_cars for mount in each.get("volumeMounts", []))]:
        if mount["name"] not in known:
            raise PodError(f"template '{template['name']}' mounts the volume '{mount['name']}', which is not declared")
        if known[mount["name"]] not in volumes:
            volumes.append(known[mount["name"]])
    for artifact in template.get("inputs", {}).get("artifacts", []):
        if all(each["name"] != "input-artifacts" for each in volumes):
            volumes.append({"name": "input-artifacts", "emptyDir": {}})
        mounts.append({"name": "input-artifacts", "mountPath": artifact["path"], "subPath": artifact["name"]})
    for each in side_cars:
        if each.pop("mirrorVolumeMounts", False):
            each["volumeMounts"] = [*each.get("volumeMounts", []), *copy.deepcopy(mounts)]
    made: Document = {
        "restartPolicy": "Never",
        "volumes": volumes,
        "initContainers": [_executor("init")],
        "containers": [_executor("wait"), main, *side_cars],
    }
    for key in ("nodeSelector", "tolerations", "serviceAccountName", "securityContext"):
        if template.get(key) or spec.get(key):
            made[key] = template.get(key) or spec[key]
    for key in ("imagePullSecrets", "podPriorityClassName"):
        if spec.get(key):
            made[key.replace("podPriority", "priority")] = spec[key]
    for patch in (spec.get("podSpecPatch"), template.get("podSpecPatch")):
        _patch(made, json.loads(patch or "{}"))
    labels = {"workflows.argoproj.io/workflow": workflow, **(spec.get("podMetadata") or {}).get("labels", {})}
    return {"metadata": {"name": f"{workflow}-{template['name']}-123", "labels": labels}, "spec": made}


def _executor(name: str) -> Document:
    mounts = [{"name": volume, "mountPath": path} for volume, path in OWN_VOLUMES.items()]
    return {"name": name, "image": EXECUTOR_IMAGE, "command": ["argoexec", name], "volumeMounts": mounts}


def _patch(below: Document, patch: Mapping[str, Any]) -> None:
    """Lay a strategic merge patch over a pod's spec: containers are merged by name."""
    for key, value in patch.items():
        if isinstance(value, dict) and isinstance(below.get(key), dict):
            _patch(below[key], value)
        elif key in ("containers", "initContainers"):
            for each in value:
                found = next((one for one in below[key] if one["name"] == each["name"]), None)
                if found is None:
                    below[key].append(dict(each))
                else:
                    _patch(found, each)
        else:
            below[key] = value
