"""Training on several machines at once: a JobSet, which starts all its pods together and all again when one is lost.

Source: jobset.sigs.k8s.io, API v1alpha2 (`status.terminalState` since 0.6). Kueue admits its pods as one gang where the
label of a queue says so. Nothing here is Argo's but the template that creates the JobSet and waits for it.
"""

import re
from typing import Any

import yaml
from hera.workflows import Container, Resource
from hera.workflows import models as m

from pipelines.workflow.contract import VOLUMES
from steps.common.errors import EXIT_USER_ERROR

JOBSET = "jobset.x-k8s.io"
QUEUE_LABEL = "kueue.x-k8s.io/queue-name"
_NAME = "{{workflow.name}}-train"
_JOB = "node"
_PORT = 29500
_QUOTED = re.compile(r"'\{\{workflow\.parameters\.([^}']+)\}\}'")
"""A parameter as YAML quotes it. Argo puts values into the text as they are, where a line break or a quote would end
the quotes: an expression quotes them anew."""
_INDEX = "metadata.annotations['batch.kubernetes.io/job-completion-index']"


def across_nodes(
    train: Container, nodes: int, restarts: int, queue: str, labels: dict[str, str], pod: dict[str, Any]
) -> Resource:
    """Make the template that runs a training step's container on several nodes.

    Args:
        train: the template for one node. Its side-cars and input artifacts stay out: pods of a JobSet are not Argo's.
        nodes: how many pods train together; `torchrun`'s variables tell them who they are.
        restarts: how often all of them start again after one was lost; they go on from the last checkpoint.
        queue: Kueue's queue; empty for none.
        labels: of each pod.
        pod: what else the workflow says of each pod: security context, service account and the like.
    """
    template = train._build_template()
    container = _plain(template.container)
    address = f"{_NAME}-{_JOB}-0-0.{_NAME}"
    container["name"] = "main"
    container["env"] = [
        *container.get("env", []),
        {"name": "PET_NNODES", "value": str(nodes)},
        {"name": "PET_NODE_RANK", "valueFrom": {"fieldRef": {"fieldPath": _INDEX}}},
        {"name": "PET_MASTER_ADDR", "value": address},
        {"name": "PET_MASTER_PORT", "value": str(_PORT)},
    ]
    volumes = [
        {"name": name, "persistentVolumeClaim": {"claimName": f"{{{{workflow.name}}}}-{name}"}} for name in VOLUMES
    ]
    volumes += [{"name": "tmp", "emptyDir": {}}, {"name": "dshm", "emptyDir": {"medium": "Memory"}}]
    placed = {
        "nodeSelector": template.node_selector,
        "tolerations": [_plain(each) for each in template.tolerations or []],
    }
    job = {
        "parallelism": nodes,
        "completions": nodes,
        "completionMode": "Indexed",
        "backoffLimit": 0,
        "podFailurePolicy": {
            "rules": [
                {
                    "action": "FailJob",
                    "onExitCodes": {"containerName": "main", "operator": "In", "values": [EXIT_USER_ERROR]},
                }
            ]
        },
        "template": {
            "metadata": {"labels": labels},
            "spec": {
                "restartPolicy": "Never",
                **{key: value for key, value in placed.items() if value},
                **pod,
                "containers": [container],
                "volumes": volumes,
            },
        },
    }
    if template.active_deadline_seconds:
        job["activeDeadlineSeconds"] = int(str(template.active_deadline_seconds.root))
    document = {
        "apiVersion": f"{JOBSET}/v1alpha2",
        "kind": "JobSet",
        "metadata": {"name": _NAME, "labels": {QUEUE_LABEL: queue} if queue else {}},
        "spec": {
            "network": {"enableDNSHostnames": True, "publishNotReadyAddresses": True},
            "failurePolicy": {
                "maxRestarts": restarts,
                # What the user must mend stays as it is, however often it starts again.
                "rules": [{"action": "FailJobSet", "onJobFailureReasons": ["PodFailurePolicy"]}],
            },
            "replicatedJobs": [{"name": _JOB, "replicas": 1, "template": {"spec": job}}],
        },
    }
    return Resource(
        name=train.name,
        # Not `create`: should Argo's own pod be lost, the next one finds the JobSet and goes on waiting.
        action="apply",
        set_owner_reference=True,
        success_condition="status.terminalState == Completed",
        failure_condition="status.terminalState == Failed",
        manifest=_QUOTED.sub(r"{{=toJson(workflow.parameters['\1'])}}", yaml.safe_dump(document, sort_keys=False)),
        retry_strategy=m.RetryStrategy(limit=m.IntOrString(root="5"), retry_policy="OnError"),
    )


def _plain(model: Any) -> dict[str, Any]:
    found: dict[str, Any] = model.model_dump(mode="json", by_alias=True, exclude_none=True)
    return found
