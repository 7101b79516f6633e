"""Watch a workflow until it is finished."""

import base64
import contextlib
import gzip
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timezone

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from pipelines.cluster.errors import ConnectionLostError
from pipelines.cluster.protocol import Cluster, Document
from pipelines.errors import PipelineError

FINISHED = {"Succeeded", "Failed", "Error"}
COLOURS = {"Succeeded": "green", "Failed": "red", "Error": "red", "Running": "cyan"}
RECONNECT_SECONDS = (1, 2, 5, 10, 20, 30)
"""How long to wait before each attempt in a row; a message from the cluster starts over."""
ATTEMPTS = 15


@dataclass(frozen=True)
class Step:
    """A step of the workflow, as it stands."""

    name: str
    phase: str
    seconds: float
    message: str

    @property
    def duration(self) -> str:
        minutes, seconds = divmod(round(self.seconds), 60)
        return f"{minutes}m{seconds:02d}s" if minutes else f"{seconds}s"


def watch(cluster: Cluster, name: str, console: Console) -> bool:
    """Show a workflow until it is finished, through broken connections; return whether it succeeded.

    On a terminal there is one line a step, redrawn; elsewhere a line whenever a step's phase changes. When it
    failed, the failed steps' messages and the last lines of their logs follow.

    Raises:
        PipelineError: there is no such workflow, or the cluster refuses.
    """
    said: dict[str, str] = {}
    workflow: Document = {}
    # Durations of running steps grow between messages, hence the function.
    table = Live(get_renderable=lambda: _table(name, _steps(workflow)), console=console)
    with table if console.is_terminal else contextlib.nullcontext():
        for workflow in _states(cluster, name, console):
            for step in [] if console.is_terminal else _steps(workflow):
                if said.get(step.name) != step.phase:
                    said[step.name] = step.phase
                    duration = f"  {step.duration}" if step.phase in FINISHED else ""
                    console.print(Text(f"{step.name:<20} {step.phase}{duration}"))
    phase = _phase(workflow)
    end = Text(f"{name} {phase}", style=COLOURS.get(phase, "bold"))
    console.print(end.append(f"  {_seconds(workflow['status']):.0f} s", style="default"))
    if phase == "Succeeded":
        return True
    _explain(cluster, workflow, name, console)
    return False


def _states(cluster: Cluster, name: str, console: Console) -> Iterator[Document]:
    """Return the workflow each time that it changes, the last time when it is finished."""
    attempt = 0
    while True:
        try:
            now = cluster.get(name)
            yield now
            if _phase(now) in FINISHED:
                return
            for changed in cluster.events(name, now["metadata"].get("resourceVersion", "")):
                attempt = 0
                if "status" in changed:
                    yield changed
                if _phase(changed) in FINISHED:
                    return
            # A server ends a watch now and then, which is no failure; one that does so at once is not hurried.
            time.sleep(RECONNECT_SECONDS[0])
        except ConnectionLostError as error:
            if attempt == ATTEMPTS:
                raise PipelineError(f"{error}: the workflow keeps running, watch it again later") from None
            wait = RECONNECT_SECONDS[min(attempt, len(RECONNECT_SECONDS) - 1)]
            console.print(Text(f"{error}; trying again in {wait} s", style="yellow"))
            attempt += 1
            time.sleep(wait)


def _phase(workflow: Document) -> str:
    return str(workflow.get("status", {}).get("phase") or "Pending")


def _nodes(workflow: Document) -> dict[str, Document]:
    status = workflow.get("status", {})
    if status.get("compressedNodes"):
        unpacked: dict[str, Document] = json.loads(gzip.decompress(base64.b64decode(status["compressedNodes"])))
        return unpacked
    return status.get("nodes") or {}


def _steps(workflow: Document) -> list[Step]:
    """Return the DAG's tasks in the order in which they started; a task's retries are one step."""
    nodes = _nodes(workflow)
    attempts = {child for node in nodes.values() if node.get("type") == "Retry" for child in node.get("children", [])}
    tasks = [
        node
        for node in nodes.values()
        if node.get("type") in ("Pod", "Retry", "Skipped") and node["id"] not in attempts
    ]
    tasks.sort(key=lambda node: node.get("startedAt") or "")
    return [
        Step(node["displayName"], node.get("phase") or "Pending", _seconds(node), node.get("message", ""))
        for node in tasks
    ]


def _seconds(node: Document) -> float:
    started, finished = _time(node.get("startedAt")), _time(node.get("finishedAt"))
    if started is None:
        return 0.0
    # This machine's clock may be behind the cluster's.
    return max(((finished or datetime.now(timezone.utc)) - started).total_seconds(), 0.0)


def _time(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text.replace("Z", "+00:00")) if text else None


def _table(name: str, steps: list[Step]) -> Table:
    table = Table("step", "phase", "duration", "", title=Text(name), title_justify="left", box=None)
    for step in steps:
        phase = Text(step.phase, style=COLOURS.get(step.phase, "default"))
        table.add_row(Text(step.name), phase, step.duration, Text(step.message))
    return table


def _explain(cluster: Cluster, workflow: Document, name: str, console: Console) -> None:
    """Show why a workflow failed."""
    nodes = _nodes(workflow)
    failed = [node for node in nodes.values() if node.get("type") == "Pod" and node.get("phase") in ("Failed", "Error")]
    if not failed and workflow["status"].get("message"):
        console.print(Text(f"  {workflow['status']['message']}"))
    # Earlier attempts of a step fail as its last one does.
    last = {
        node["displayName"].partition("(")[0]: node for node in sorted(failed, key=lambda n: n.get("startedAt") or "")
    }
    for title, node in last.items():
        console.print(Text(f"{title}: {node.get('message') or node['phase']}", style="red"))
        try:
            lines = cluster.log(name, node)
        except (ConnectionLostError, PipelineError) as error:
            lines = [f"(no log: {error})"]
        for line in lines or ["(no log)"]:
            console.print(Text(f"  {line}"), soft_wrap=True)
