"""The pods that Onepanel's core and Argo v2.12.4 make of a template.

Both add things that no schema and no validator of theirs knows of: a pod that Kubernetes refuses comes of a
template that core accepted.

Sources: onepanelio/core d69f6a4, pkg/workflow_execution.go (`injectFilesyncerSidecar`, `injectAutomatedFields`,
`injectAccessForSidecars`); argoproj/argo-workflows v2.12.4, workflow/controller/workflowpod.go
(`createWorkflowPod`), with the Docker executor, which is the default of that version and Onepanel's.
"""

import copy
import json
import posixpath
import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pipelines.errors import PipelineError
from pipelines.manifest.reader import substitute

Document = dict[str, Any]

ARTIFACT_SECRET = "onepanel"  # noqa: S105 - the name of a secret
"""Secret of each namespace with the artifact repository's keys; Argo names a volume after it."""
ARTIFACT_KEYS = ("artifactRepositoryS3AccessKey", "artifactRepositoryS3SecretKey")
INTERACTIVE = {"name": "ONEPANEL_INTERACTIVE_SIDECAR", "value": "true"}
SHARED_MEMORY = "sys-dshm"
METRICS = {
    "name": "sys-metrics",
    "path": "/tmp/sys-metrics.json",  # noqa: S108 - a path in a pod
    "optional": True,
    "archive": {"none": {}},
}
FILE_SYNCER = {
    "name": "sys-filesyncer",
    "image": "onepanel/filesyncer:v0.19.0",
    "args": ["server", "-server-prefix=/sys/filesyncer", "-backend=local-storage"],
    "env": [INTERACTIVE],
    "ports": [{"containerPort": 8888}],
}
EXECUTOR_IMAGE = "argoproj/argoexec:v2.12.4"
MAIN_FILES = "/mainctrfs"
"""Where Argo's own containers see what is mounted into the main one."""


class PodError(PipelineError):
    """Argo would not even make the pod."""


@dataclass(frozen=True)
class Execution:
    """What is known only when a template is executed."""

    name: str = "detr-training-x7k2p"
    uid: str = "detr-training"
    """Of the template."""
    namespace: str = "team"
    parameters: Mapping[str, str] = field(default_factory=dict)
    """In place of the template's defaults."""
    installation: Mapping[str, str] = field(
        default_factory=lambda: {
            "ONEPANEL_PROVIDER": "minikube",
            "ONEPANEL_DOMAIN": "example.com",
            "ONEPANEL_FQDN": "app.example.com",
            "ONEPANEL_API_URL": "https://app.example.com/api",
        }
    )


def onepanel_pods(spec: Mapping[str, Any], execution: Execution | None = None) -> dict[str, Document]:
    """Make the pod of each task of a template's DAG, by the task's name.

    The pods of the tasks that core adds (status, services, statistics) are left out.

    Args:
        spec: the bare spec that Onepanel takes.
        execution: what executing it adds.

    Raises:
        PodError: Argo would make no pod, since a volume or a parameter is unknown.
    """
    execution = execution or Execution()
    return argo_pods(as_core_makes_it(spec, execution), execution)


def as_core_makes_it(spec: Mapping[str, Any], execution: Execution) -> Document:
    """Add to a spec what core adds to its volumes and container templates before Argo gets it."""
    made = copy.deepcopy(dict(spec))
    made["podGC"] = made.get("podGC", {"strategy": "OnPodCompletion"})
    made["artifactRepositoryRef"] = {"configMap": "onepanel", "key": "artifactRepository"}
    made["volumes"] = [*made.get("volumes", []), {"name": SHARED_MEMORY, "emptyDir": {"medium": "Memory"}}]
    for template in made["templates"]:
        side_cars = template.setdefault("sidecars", [])
        if template.get("container", {}).get("volumeMounts"):
            side_cars.append(copy.deepcopy(FILE_SYNCER))
        interactive = [side_car for side_car in side_cars if INTERACTIVE in side_car.get("env", [])]
        metadata = template.setdefault("metadata", {})
        annotations = metadata.setdefault("annotations", {})
        annotations["sidecar.istio.io/inject"] = "true" if interactive else "false"
        if interactive:
            annotations["traffic.sidecar.istio.io/includeOutboundIPRanges"] = ""
        if "container" in template:
            _complete_container(template, execution)
        for side_car in interactive:
            side_car["mirrorVolumeMounts"] = True
            # Core draws these names; all that counts here is that they differ and how long they are.
            drawn = uuid.uuid5(uuid.NAMESPACE_URL, f"{template['name']}/{side_car['name']}")
            service = f"s{drawn}--{execution.namespace}"
            metadata.setdefault("labels", {})[f"service-{drawn}"] = service
            template.setdefault("outputs", {}).setdefault("parameters", []).append(
                {
                    "name": f"sys-sidecar-url--{side_car['name']}",
                    "value": f"{service}.{execution.installation['ONEPANEL_DOMAIN']}",
                }
            )
    return made


def _complete_container(template: Document, execution: Execution) -> None:
    container = template["container"]
    container.setdefault("volumeMounts", []).append({"name": SHARED_MEMORY, "mountPath": "/dev/shm"})  # noqa: S108
    if template.get("nodeSelector"):
        # Pods with the same host port never share a node.
        container["ports"] = [{"name": "node-capturer", "hostPort": 80, "containerPort": 80}]
    added = {
        "ONEPANEL_RESOURCE_UID": "{{workflow.name}}",
        "ONEPANEL_RESOURCE_NAMESPACE": "{{workflow.namespace}}",
        **execution.installation,
    }
    own = container.get("env", [])
    names = {entry["name"] for entry in own}
    container["env"] = [{"name": name, "value": value} for name, value in added.items() if name not in names] + own
    container.setdefault("envFrom", []).append({"secretRef": {"name": "onepanel-default-env", "optional": True}})
    outputs = template.setdefault("outputs", {})
    outputs.setdefault("artifacts", []).append(copy.deepcopy(METRICS))
    for artifact in [*outputs["artifacts"], *template.get("inputs", {}).get("artifacts", [])]:
        artifact["archive"] = {"none": {}}
        s3 = artifact.get("s3")
        if s3 and s3.get("key") and not s3.get("bucket"):
            s3 |= {
                "accessKeySecret": {"name": ARTIFACT_SECRET, "key": ARTIFACT_KEYS[0]},
                "secretKeySecret": {"name": ARTIFACT_SECRET, "key": ARTIFACT_KEYS[1]},
            }
    labels = template["metadata"].setdefault("labels", {})
    labels |= {"onepanel.io/entity-type": "Workflow", "onepanel.io/entity-uid": execution.uid}


def argo_pods(spec: Mapping[str, Any], execution: Execution) -> dict[str, Document]:
    """Make the pods of a workflow's DAG as Argo's controller does, by the task's name.

    Raises:
        PodError: a volume or a parameter is unknown.
    """
    templates = {template["name"]: template for template in spec["templates"]}
    values = {
        f"workflow.parameters.{each['name']}": str(execution.parameters.get(each["name"], each.get("value", "")))
        for each in spec.get("arguments", {}).get("parameters", [])
    }
    values |= {"workflow.name": execution.name, "workflow.namespace": execution.namespace}
    pods = {}
    for task in templates[spec["entrypoint"]]["dag"]["tasks"]:
        template = templates[task["template"]]
        if "container" in template:
            attempt = "(0)" if "retryStrategy" in template else ""
            node = f"{execution.name}.{task['name']}{attempt}"
            pods[task["name"]] = _pod(spec, replaced(template, values), node, execution)
    return pods


def replaced(template: Mapping[str, Any], values: Mapping[str, str]) -> Document:
    """Replace the workflow's variables in every text of a template."""
    for name in re.findall(r"\{\{\s*(workflow\.parameters\..*?)\s*\}\}", json.dumps(template)):
        if name not in values:
            raise PodError(f"template '{template['name']}' uses {{{{{name}}}}}, which is not declared")

    def replaced(value: Any) -> Any:
        if isinstance(value, str):
            return substitute(value, values, strict=False)
        if isinstance(value, dict):
            return {key: replaced(inner) for key, inner in value.items()}
        return [replaced(inner) for inner in value] if isinstance(value, list) else value

    made: Document = replaced(template)
    return made


def _pod(spec: Mapping[str, Any], template: Document, node: str, execution: Execution) -> Document:
    wait, init = _executor("wait"), _executor("init")
    wait["volumeMounts"].append({"name": "docker-sock", "mountPath": "/var/run/docker.sock", "readOnly": True})
    main = {**copy.deepcopy(template["container"]), "name": "main"}
    main.setdefault("volumeMounts", [])
    given: list[Document] = copy.deepcopy(main["volumeMounts"])
    inputs = template.get("inputs", {}).get("artifacts", [])
    own_inits: list[Document] = copy.deepcopy(template.get("initContainers", []))
    side_cars: list[Document] = copy.deepcopy(template.get("sidecars", []))

    volumes: list[Document] = [
        {
            "name": "podmetadata",
            "downwardAPI": {
                "items": [
                    {"path": "annotations", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.annotations"}}
                ]
            },
        },
        {"name": "docker-sock", "hostPath": {"path": "/var/run/docker.sock", "type": "Socket"}},
    ]
    known = _known_volumes(spec, template, execution)
    for mount in [*given, *(mount for each in [*own_inits, *side_cars] for mount in each.get("volumeMounts", []))]:
        if mount["name"] not in known:
            raise PodError(f"template '{template['name']}' mounts the volume '{mount['name']}', which is not declared")
        if mount["name"] not in {volume["name"] for volume in volumes}:
            volumes.append(known[mount["name"]])
    # Their names are not compared with those above.
    for secret, keys in _artifact_secrets(template).items():
        items = [{"key": key, "path": key} for key in keys]
        volumes.append({"name": secret, "secret": {"secretName": secret, "items": items}})
        for each in (wait, init):
            each["volumeMounts"].append({"name": secret, "mountPath": f"/argo/secret/{secret}", "readOnly": True})
    if inputs:
        volumes.append({"name": "input-artifacts", "emptyDir": {}})
        init["volumeMounts"].append({"name": "input-artifacts", "mountPath": "/argo/inputs/artifacts"})
        init["volumeMounts"] += [_in_main_files(mount) for mount in given]
        for artifact in inputs:
            inside = any(f"{artifact['path']}/".startswith(f"{mount['mountPath']}/") for mount in given)
            if not inside:
                mount = {"name": "input-artifacts", "mountPath": artifact["path"], "subPath": artifact["name"]}
                main["volumeMounts"].append(mount)
    for each in [*own_inits, *side_cars]:
        if each.pop("mirrorVolumeMounts", False):
            each["volumeMounts"] = [*each.get("volumeMounts", []), *copy.deepcopy(main["volumeMounts"])]
    wait["volumeMounts"] += [
        {key: value for key, value in _in_main_files(mount).items() if key != "readOnly"}
        for mount in main["volumeMounts"]
    ]

    metadata = template.get("metadata", {})
    made: Document = {
        "restartPolicy": "Never",
        "volumes": volumes,
        "initContainers": [*([init] if inputs else []), *own_inits],
        "containers": [wait, main, *side_cars],
    }
    for key in ("nodeSelector", "tolerations", "affinity", "serviceAccountName"):
        if template.get(key) or spec.get(key):
            made[key] = template.get(key) or spec[key]
    return {
        "metadata": {
            "name": f"{execution.name}-{_fnv1a(node)}",
            "namespace": execution.namespace,
            "labels": {
                "workflows.argoproj.io/workflow": execution.name,
                "workflows.argoproj.io/completed": "false",
                **metadata.get("labels", {}),
            },
            "annotations": {"workflows.argoproj.io/node-name": node, **metadata.get("annotations", {})},
        },
        "spec": made,
    }


def _executor(name: str) -> Document:
    return {
        "name": name,
        "image": EXECUTOR_IMAGE,
        "command": ["argoexec", name],
        "env": [
            {"name": "ARGO_POD_NAME", "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.name"}}}
        ],
        "volumeMounts": [{"name": "podmetadata", "mountPath": "/argo/podmetadata"}],
    }


def _known_volumes(spec: Mapping[str, Any], template: Document, execution: Execution) -> dict[str, Document]:
    names = [claim["metadata"]["name"] for claim in spec.get("volumeClaimTemplates", [])]
    claims = [
        {"name": name, "persistentVolumeClaim": {"claimName": f"{execution.name}-{name}"}} for name in names
    ]  # fmt: skip
    found: dict[str, Document] = {}
    for volume in [*template.get("volumes", []), *spec.get("volumes", []), *claims]:
        found.setdefault(volume["name"], volume)
    return found


def _artifact_secrets(template: Document) -> dict[str, list[str]]:
    """Return the keys of each secret that Argo's own containers need, by the secret's name."""
    used: dict[str, list[str]] = {}
    inputs, outputs = (template.get(way, {}).get("artifacts", []) for way in ("inputs", "outputs"))
    if not all(_has_location(artifact) for artifact in outputs):
        used[ARTIFACT_SECRET] = list(ARTIFACT_KEYS)  # Those of the namespace's artifact repository.
    for artifact in [*outputs, *inputs]:
        for store in ("s3", "git", "gcs", "oss", "artifactory", "hdfs"):
            for name, value in (artifact.get(store) or {}).items():
                if name.endswith("Secret") and value.get("name") and value.get("key"):
                    keys = used.setdefault(value["name"], [])
                    keys += [value["key"]] if value["key"] not in keys else []
    return used


def _has_location(artifact: Document) -> bool:
    return any(artifact.get(store) for store in ("s3", "git", "http", "artifactory", "hdfs", "raw", "oss", "gcs"))


def _in_main_files(mount: Document) -> Document:
    return {**mount, "mountPath": posixpath.normpath(f"{MAIN_FILES}/{mount['mountPath']}")}


def _fnv1a(text: str) -> int:
    """Hash a node's name to 32 bits as Go's `fnv.New32a` does."""
    value = 0x811C9DC5
    for byte in text.encode():
        value = (value ^ byte) * 0x01000193 & 0xFFFFFFFF
    return value
