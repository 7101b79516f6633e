"""A workflow's status in plain words: its steps, their attempts, and why one waits."""

import base64
import gzip
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

Document = dict[str, Any]
FINISHED = {"Succeeded", "Failed", "Error"}
UNITS = ((86400, 10**6, "d"), (3600, 24, "h"), (60, 60, "m"), (1, 60, "s"))
"""Seconds of a unit of time, how many make the next one, and its letter."""
STARTING = {"", "PodInitializing", "ContainerCreating"}
"""Words for a container that waits, which do not say for what."""


@dataclass(frozen=True)
class Step:
    """A step of the workflow, as it stands; of one that is tried again, its last attempt."""

    name: str
    phase: str
    seconds: float
    message: str
    node: Document
    """The node of the pod; empty where there is none."""

    @property
    def duration(self) -> str:
        return duration(self.seconds)


def duration(seconds: float) -> str:
    """Write a time span in its two largest units: `29s`, `1m29s`, `3h05m`, `2d03h`."""
    parts = [(round(seconds) // size % limit, unit) for size, limit, unit in UNITS]
    first = next((index for index, (count, _) in enumerate(parts) if count), len(parts) - 1)
    (count, unit), *after = parts[first : first + 2]
    return f"{count}{unit}" + "".join(f"{rest:02d}{smaller}" for rest, smaller in after)


def phase_of(workflow: Document) -> str:
    """Return a workflow's phase."""
    return str(workflow.get("status", {}).get("phase") or "Pending")


def nodes_of(workflow: Document) -> dict[str, Document]:
    """Return a workflow's nodes by id, whether Argo has compressed them or not."""
    status = workflow.get("status", {})
    if status.get("compressedNodes"):
        unpacked: dict[str, Document] = json.loads(gzip.decompress(base64.b64decode(status["compressedNodes"])))
        return unpacked
    return status.get("nodes") or {}


def steps_of(workflow: Document) -> list[Step]:
    """Return the DAG's tasks in the order in which they started."""
    nodes = nodes_of(workflow)
    attempts = {node["id"]: _attempts(node, nodes) for node in nodes.values() if node.get("type") == "Retry"}
    inner = {attempt["id"] for each in attempts.values() for attempt in each}
    tasks = [
        node for node in nodes.values() if node.get("type") in ("Pod", "Retry", "Skipped") and node["id"] not in inner
    ]
    tasks.sort(key=_started)
    return [_step(node, attempts.get(node["id"], [])) for node in tasks]


def failed_pods(workflow: Document) -> dict[str, Document]:
    """Return the failed pods' nodes by step; of a step that was tried again, the last one's."""
    failed = [
        node
        for node in nodes_of(workflow).values()
        if node.get("type") == "Pod" and node.get("phase") in ("Failed", "Error")
    ]
    return {node["displayName"].partition("(")[0]: node for node in sorted(failed, key=_started)}


def _attempts(retry: Document, nodes: dict[str, Document]) -> list[Document]:
    # A step that follows may be a child of the one before it, too.
    children = [nodes[child] for child in retry.get("children", []) if child in nodes]
    return sorted(
        (each for each in children if each["displayName"].startswith(f"{retry['displayName']}(")), key=_started
    )


def _step(node: Document, attempts: Sequence[Document]) -> Step:
    name, phase, message = node["displayName"], node.get("phase") or "Pending", node.get("message", "")
    if node.get("type") == "Pod":
        return Step(name, phase, seconds_of(node), message, node)
    last = attempts[-1] if attempts else {}
    if last and phase not in FINISHED:
        # A retry's own node runs from the start, whatever its pods do.
        phase, message = last.get("phase") or "Pending", last.get("message", "")
        if phase in FINISHED:
            phase, message = "Pending", f"attempt {len(attempts)} failed: {message or last['phase']}"
        elif len(attempts) > 1:
            before = attempts[-2].get("message") or attempts[-2].get("phase")
            message = f"{message + '; ' if message else ''}attempt {len(attempts)}, after: {before}"
    return Step(name, phase, seconds_of(node), message, last)


def _started(node: Document) -> str:
    return str(node.get("startedAt") or "")


def seconds_of(node: Document) -> float:
    """Return for how long a node, or a whole workflow's status, has been running or ran, in seconds."""
    started, finished = _time(node.get("startedAt")), _time(node.get("finishedAt"))
    if started is None:
        return 0.0
    # This machine's clock may be behind the cluster's.
    return max(((finished or datetime.now(timezone.utc)) - started).total_seconds(), 0.0)


def _time(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text.replace("Z", "+00:00")) if text else None


def is_pod_of(pod: str, node: Document) -> bool:
    """Tell whether a pod is a node's by its name: it ends as the node's id does, what is between varies with Argo."""
    return pod.rpartition("-")[2] == node["id"].rpartition("-")[2]


def why_it_waits(workflow: str, node: Document, pod: Document, warnings: Sequence[Document]) -> str:
    """Say why a pod has not started.

    Args:
        workflow: its name.
        node: of the pod in the workflow, whose message is what Argo's controller read from the pod.
        pod: as Kubernetes has it; empty where it cannot be asked.
        warnings: Kubernetes' events of type Warning.

    Returns:
        Reason and message, of an image that cannot be pulled, of volumes that do not bind or cannot be mounted, of a
        scheduler that finds no node; empty when nothing is known.
    """
    status = pod.get("status", {})
    for container in (*(status.get("initContainerStatuses") or []), *(status.get("containerStatuses") or [])):
        waiting = (container.get("state") or {}).get("waiting") or {}
        if waiting.get("reason", "") not in STARTING:
            return _reason(waiting)
    scheduled = bool(node.get("hostNodeName"))
    found = []
    for condition in status.get("conditions") or []:
        if condition.get("type") == "PodScheduled":
            scheduled = condition.get("status") == "True"
            found += [] if scheduled else [_reason(condition)]
    own = str(node.get("message", ""))
    if own not in STARTING and not found:
        found.append(_short(own))
    # The last one of each object and reason: earlier ones are in the past.
    said: dict[tuple[str, str], str] = {}
    for event in sorted(warnings, key=lambda event: str(event.get("lastTimestamp") or event.get("eventTime") or "")):
        about = event.get("involvedObject", {})
        kind, name, reason = about.get("kind"), str(about.get("name", "")), str(event.get("reason", ""))
        claim = kind == "PersistentVolumeClaim" and name.startswith(f"{workflow}-") and not scheduled
        mine = kind == "Pod" and name.startswith(workflow) and is_pod_of(name, node)
        if claim:
            said[name, reason] = f"volume {name}: {_reason(event)}"
        elif mine and not found and not (reason == "FailedScheduling" and scheduled):
            said[name, reason] = _reason(event)
    return "; ".join([*found, *list(said.values())[-2:]])


def _reason(said: Document) -> str:
    """Return what a condition, an event or a waiting container says."""
    return _short(": ".join(filter(None, [said.get("reason"), said.get("message")])))


def _short(text: str) -> str:
    # What the scheduler adds about pods that it would not evict helps nobody.
    return " ".join(re.sub(r" preemption: .*", "", text, flags=re.DOTALL).split())[:400]
