"""What Onepanel's core and CVAT's form insist on in a bare spec, a rule for each.

Core parses strictly as Argo v2.12.4: the generated client of that version, the package `argo-workflows` 5.0.0, knows
its fields.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from argo.workflows.client import ApiClient

from pipelines.manifest.argo_rules import lost_fields
from pipelines.manifest.onepanel_pods import ARTIFACT_SECRET, PodError, onepanel_pods
from pipelines.manifest.pod_rules import Fault, claim_faults, pod_faults
from pipelines.workflow import parameters as p
from pipelines.workflow.contract import METRICS_FILE, ONEPANEL_CONFIG, STEPS_COMMAND
from steps.cli import STEPS, takes_storage

Document = Mapping[str, Any]
Problems = Iterator[str]

MISSHAPEN = "not a workflow spec of Argo v2.12.4"
FORM_KEYS = {"displayName", "hint", "type", "visibility", "required", "options"}
"""Keys that Onepanel adds to Argo's own for a parameter."""
NUMBER_OR_TEXT = ("retryStrategy.limit", "retryStrategy.backoff.factor", "].activeDeadlineSeconds")
"""Fields of v2.12.4 whose content the generated client drops."""
VISIBILITIES = {"public", "protected", "internal", "private"}
FORM_TYPES = {p.TEXT, p.NUMBER, p.TEXTAREA, p.SELECT, p.NODE_POOL, "editor.yaml"}
RESERVED = "sys-"
"""Prefix of the names that core reserves; of those, a template declares only the node pool's parameter."""


def lint_onepanel(spec: Document) -> list[str]:
    """List what Onepanel's core, or CVAT's form, would refuse in a bare spec."""
    if not isinstance(spec.get("templates"), list) or not isinstance(spec.get("entrypoint"), str):
        return ["expected a workflow spec with 'entrypoint' and 'templates'"]
    problems: list[str] = []
    for rule in ONEPANEL_RULES:
        problems += rule(spec)
        if any(problem.startswith(MISSHAPEN) for problem in problems):
            break  # The other rules look inside.
    return problems


class _Response:
    """What the generated client expects to deserialize."""

    def __init__(self, document: Document) -> None:
        self.data = json.dumps(document)


def fields_of_argo_2_12(spec: Document) -> Problems:
    """Core parses strictly: one unknown field outside a parameter's own keys, and the template is refused."""
    client = ApiClient()
    try:
        understood = client.sanitize_for_serialization(client.deserialize(_Response(spec), "V1alpha1WorkflowSpec"))
    except (AttributeError, TypeError, ValueError) as error:
        yield f"{MISSHAPEN}: {error}"
        return
    for field in lost_fields(spec, understood):
        parameter = field.startswith("arguments.parameters[") and field.rpartition(".")[2] in FORM_KEYS
        if not parameter and not field.endswith(NUMBER_OR_TEXT):
            yield f"{field} is not a field of Argo v2.12.4"


def parameters_for_forms(spec: Document) -> Problems:
    """Each parameter has a name, a string as its value, and a type and visibility that forms know."""
    for parameter in spec.get("arguments", {}).get("parameters", []):
        what, value = f"parameter '{parameter.get('name')}'", parameter.get("value")
        if not isinstance(value, str):
            yield f"{what} needs a string as its value, not {value!r}"
        for key, known in (("visibility", VISIBILITIES), ("type", FORM_TYPES)):
            if parameter.get(key) not in known:
                yield f"{what} has the {key} '{parameter.get(key)}': expected one of {', '.join(sorted(known))}"
        if parameter.get("type") == p.SELECT:
            options = [option.get("value") for option in parameter.get("options") or []]
            if value not in options:
                yield f"{what} has the value {value!r}, which is not one of its options {options}"


def dags_at_the_top(spec: Document) -> Problems:
    """The templates that core starts from are DAGs."""
    templates = _templates(spec)
    for field in ("entrypoint", "onExit"):
        if field in spec and "dag" not in templates.get(spec[field], {}):
            yield f"{field} names '{spec[field]}', which is not a DAG"


def edges_as_dependencies(spec: Document) -> Problems:
    """Core adds `dependencies` to root tasks, and Argo refuses a DAG that also uses `depends`."""
    for task in _tasks(spec):
        if "depends" in task:
            yield f"task '{task['name']}' uses 'depends': write 'dependencies'"


def one_root_first(spec: Document) -> Problems:
    """Core adds its first task once for each root, and hooks exposure of side-cars onto the first in the list."""
    tasks = _tasks(spec)
    roots = [task["name"] for task in tasks if not task.get("dependencies") and not task.get("depends")]
    if len(roots) != 1:
        yield f"the DAG has {len(roots)} root tasks ({', '.join(roots)}): it must have exactly one"
    elif tasks[0]["name"] != roots[0]:
        yield f"the root task '{roots[0]}' must be the first in the list"


def containers_without_shared_memory(spec: Document) -> Problems:
    """Core mounts a memory-backed /dev/shm, which data-loader workers need, into containers and nothing else."""
    for name, template in _templates(spec).items():
        if not {"container", "dag"} & template.keys():
            yield f"template '{name}' is not a container: core mounts /dev/shm only into containers"
        if any(mount["mountPath"] == "/dev/shm" for mount in _mounts(template)):  # noqa: S108
            yield f"template '{name}' mounts /dev/shm, which core does: remove the mount"


def node_selector_is_the_pool(spec: Document) -> Problems:
    """Core sets resources and ports of a container whose one node selector is the pool; training needs that."""
    for name, template in _templates(spec).items():
        selector = template.get("nodeSelector")
        if selector is not None and list(selector.values()) != [p.SYS_NODE_POOL.reference]:
            yield f"template '{name}' must have one node selector, valued {p.SYS_NODE_POOL.reference}"
        if selector is None and _step(template) in ("train", "evaluate"):
            yield f"template '{name}' needs a node selector valued {p.SYS_NODE_POOL.reference}"


def names_that_are_cores(spec: Document) -> Problems:
    """Core adds `sys-metrics` at /tmp/sys-metrics.json to every container, and packs no archives."""
    for parameter in spec.get("arguments", {}).get("parameters", []):
        if parameter["name"].startswith(RESERVED) and parameter["name"] != p.SYS_NODE_POOL.name:
            yield f"parameter '{parameter['name']}': names that begin with '{RESERVED}' are reserved for core"
    for template in _templates(spec).values():
        for direction in ("inputs", "outputs"):
            for artifact in (template.get(direction) or {}).get("artifacts", []):
                where = f"artifact '{artifact['name']}' of template '{template['name']}'"
                if artifact["name"].startswith(RESERVED):
                    yield f"{where}: names that begin with '{RESERVED}' are reserved for core"
                if artifact.get("path") == METRICS_FILE:
                    yield f"{where} has the path {METRICS_FILE}, which core uses for its own"
                if artifact.get("archive", {"none": {}}) != {"none": {}}:
                    yield f"{where} is archived, which core cannot read: remove 'archive'"


def side_cars_have_ports(spec: Document) -> Problems:
    """A side-car is shown in the UI by its first port; training has a TensorBoard."""
    for name, template in _templates(spec).items():
        shown = [side_car for side_car in template.get("sidecars", []) if _interactive(side_car)]
        for side_car in shown:
            if not side_car.get("ports"):
                yield f"side-car '{side_car['name']}' of template '{name}' needs a port, by which it is shown"
        if _step(template) == "train" and not shown:
            yield f"template '{name}' has no side-car with ONEPANEL_INTERACTIVE_SIDECAR"


def storage_is_mounted(spec: Document) -> Problems:
    """A step that reads or writes objects finds endpoint, bucket and keys in /etc/onepanel."""
    projected = {
        volume["name"]
        for volume in spec.get("volumes", [])
        if {"onepanel"} == {
            source[kind]["name"] for source in volume.get("projected", {}).get("sources", []) for kind in source
        }
        and len(volume["projected"]["sources"]) == 2
    }  # fmt: skip
    for name, template in _templates(spec).items():
        mounted = any(
            mount["name"] in projected and mount["mountPath"] == ONEPANEL_CONFIG for mount in _mounts(template)
        )
        if takes_storage(_step(template)) and not mounted:
            yield (
                f"template '{name}' needs the secret and the config map 'onepanel' as one projected volume "
                f"at {ONEPANEL_CONFIG}"
            )


def kubernetes_accepts_the_pods(spec: Document) -> Problems:
    """Core and Argo add volumes, mounts, containers and labels to each pod, and Kubernetes checks the sum."""
    try:
        pods = onepanel_pods(spec)
    except PodError as error:
        yield str(error)
        return
    except KeyError as error:
        yield f"a template cannot be made into a pod: a field {error} is missing"
        return
    for claim in spec.get("volumeClaimTemplates", []):
        for fault in claim_faults(claim):
            yield f"the volume claim '{claim['metadata']['name']}' would be refused: {fault}"
    # A mistake that shows in several pods is one line.
    found: dict[tuple[str, str], list[tuple[str, Fault]]] = {}
    for name, pod in pods.items():
        for fault in pod_faults(pod):
            found.setdefault((json.dumps(fault.value), _remedy(fault)), []).append((name, fault))
    for (_, remedy), faults in found.items():
        pod_names = ", ".join(f"'{name}'" for name in dict.fromkeys(name for name, _ in faults))
        yield f"Kubernetes would refuse the pod of {pod_names}: {faults[0][1]}{remedy}"


def _remedy(fault: Fault) -> str:
    if fault.duplicate and fault.field.startswith("spec.volumes") and fault.value == ARTIFACT_SECRET:
        return "; Argo adds a volume of that name for the secret with the artifact keys: rename the template's own"
    if fault.field.endswith("mountPath") and fault.container not in ("init", "wait", "main"):
        return (
            f"; core mirrors the main container's mounts into the side-car '{fault.container}': "
            "remove the side-car's own"
        )
    return ""


ONEPANEL_RULES: tuple[Callable[[Document], Problems], ...] = (
    fields_of_argo_2_12,
    parameters_for_forms,
    dags_at_the_top,
    edges_as_dependencies,
    one_root_first,
    containers_without_shared_memory,
    node_selector_is_the_pool,
    names_that_are_cores,
    side_cars_have_ports,
    storage_is_mounted,
    kubernetes_accepts_the_pods,
)


def _templates(spec: Document) -> dict[str, Any]:
    return {template["name"]: template for template in spec["templates"]}


def _tasks(spec: Document) -> list[Any]:
    dag = _templates(spec).get(spec["entrypoint"], {}).get("dag") or {}
    tasks: list[Any] = dag.get("tasks") or []
    return tasks


def _mounts(template: Document) -> list[Any]:
    mounts: list[Any] = template.get("container", {}).get("volumeMounts", [])
    return mounts


def _step(template: Document) -> str:
    """Return the step that a template runs, empty if it runs none."""
    args = template.get("container", {}).get("args", [])
    return args[3] if args[:3] == STEPS_COMMAND and args[3:4] and args[3] in STEPS else ""


def _interactive(side_car: Document) -> bool:
    return {"name": "ONEPANEL_INTERACTIVE_SIDECAR", "value": "true"} in side_car.get("env", [])
