"""Watch a workflow until it is finished."""

import contextlib
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from pipelines.cluster.errors import ConnectionLostError
from pipelines.cluster.nodes import (
    FINISHED,
    Step,
    duration,
    failed_pods,
    phase_of,
    seconds_of,
    steps_of,
    why_it_waits,
)
from pipelines.cluster.protocol import LOG_LINES, Cluster, Document
from pipelines.errors import PipelineError
from pipelines.manifest.reader import substitute
from pipelines.workflow.contract import STEPS_COMMAND
from steps.storage.address import has_scheme
from steps.storage.config import BUCKET_VARIABLE

COLOURS = {"Succeeded": "green", "Failed": "red", "Error": "red", "Running": "cyan"}
RECONNECT_SECONDS = (1, 2, 5, 10, 20, 30)
"""How long to wait before each attempt in a row; a message from the cluster starts over."""
ATTEMPTS = 15


def watch(cluster: Cluster, name: str, console: Console) -> bool:
    """Show a workflow until it is finished, through broken connections; return whether it succeeded.

    On a terminal there is one line a step, redrawn; elsewhere a line whenever a step's phase changes, or why it waits.
    When it succeeded, the address of its report follows; when it failed, the failed steps' last lines.

    Raises:
        PipelineError: there is no such workflow, or the cluster refuses.
    """
    said: dict[str, tuple[str, str]] = {}
    workflow: Document = {}
    steps: list[Step] = []
    # Durations of running steps grow between messages, hence the function.
    table = Live(get_renderable=lambda: _table(name, steps), console=console)
    with table if console.is_terminal else contextlib.nullcontext():
        for workflow in _states(cluster, name, console):
            steps = _with_reasons(cluster, workflow, name)
            for step in [] if console.is_terminal else steps:
                now = (step.phase, "" if step.phase in FINISHED else step.message)
                if said.get(step.name) != now:
                    said[step.name] = now
                    more = step.duration if step.phase in FINISHED else step.message
                    console.print(Text(f"{step.name:<20} {step.phase}{f'  {more}' if more else ''}"), soft_wrap=True)
    phase = phase_of(workflow)
    end = Text(f"{name} {phase}", style=COLOURS.get(phase, "bold"))
    console.print(end.append(f"  {duration(seconds_of(workflow['status']))}", style="default"))
    if phase == "Succeeded":
        if address := report_address(workflow):
            console.print(Text(f"report: {address}"), soft_wrap=True)
        return True
    _explain(cluster, workflow, name, console)
    return False


def _states(cluster: Cluster, name: str, console: Console) -> Iterator[Document]:
    """Return the workflow now and then, and each time that it changes, the last time when it is finished."""
    attempt, said = 0, ""
    while True:
        reached = False
        try:
            now = cluster.get(name)
            reached = True
            yield now
            if phase_of(now) in FINISHED:
                return
            for changed in cluster.events(name, now["metadata"].get("resourceVersion", "")):
                attempt, said = 0, ""
                if "status" in changed:
                    yield changed
                if phase_of(changed) in FINISHED:
                    return
            # A server ends a watch now and then, which is no failure; one that does so at once is not hurried.
            time.sleep(RECONNECT_SECONDS[0])
        except ConnectionLostError as error:
            # Where only watching fails, asking again and again shows as much.
            if attempt >= ATTEMPTS and not reached:
                raise PipelineError(f"{error}: the workflow keeps running, watch it again later") from None
            wait = RECONNECT_SECONDS[min(attempt, len(RECONNECT_SECONDS) - 1)]
            if str(error) != said:
                console.print(Text(f"{error}; trying again in {wait} s", style="yellow"), soft_wrap=True)
            attempt, said = attempt + 1, str(error)
            time.sleep(wait)


def _with_reasons(cluster: Cluster, workflow: Document, name: str) -> list[Step]:
    """Return the steps, each that waits with the reason; before there are any, the workflow itself."""
    steps = steps_of(workflow)
    if not steps and phase_of(workflow) == "Pending":
        status = workflow.get("status", {})
        unseen = "no controller has taken it up yet; one with an instance id needs ARGO_INSTANCEID at submission"
        return [Step(name, "Pending", 0.0, status.get("message", "") if status.get("phase") else unseen, {})]
    return [_with_reason(cluster, step, name) if step.phase == "Pending" and step.node else step for step in steps]


def _with_reason(cluster: Cluster, step: Step, name: str) -> Step:
    if step.node.get("phase") in FINISHED:
        return step
    pod: Document = {}
    warnings: Sequence[Document] = []
    # Who may watch a workflow may not always see pods and events; what Argo says of them stays.
    with contextlib.suppress(ConnectionLostError, PipelineError):
        pod = cluster.pod(name, step.node)
    with contextlib.suppress(ConnectionLostError, PipelineError):
        warnings = cluster.warnings()
    return replace(step, message=why_it_waits(name, step.node, pod, warnings) or step.message)


def report_address(workflow: Document) -> str:
    """Say where a workflow's report lies in object storage, or nothing for a workflow that writes none."""
    status = workflow.get("status", {})
    # The first is there where the workflow refers to a template, the second says what differs.
    specs = [status.get("storedWorkflowTemplateSpec") or {}, workflow.get("spec") or {}]
    metadata = workflow["metadata"]
    values = {
        f"workflow.parameters.{each['name']}": str(each["value"])
        for spec in specs
        for each in (spec.get("arguments") or {}).get("parameters") or []
        if "value" in each
    }
    values |= {"workflow.name": metadata["name"], "workflow.namespace": metadata.get("namespace", "")}
    for template in (each for spec in specs for each in spec.get("templates") or []):
        container = template.get("container") or {}
        args = container.get("args") or []
        if args[:3] == STEPS_COMMAND and args[3] == "upload" and "--output-path" in args:
            path = substitute(args[args.index("--output-path") + 1], values, strict=False)
            key = "/".join([*filter(None, path.split("/")), "report.html"])
            bucket = next((e.get("value") for e in container.get("env") or [] if e["name"] == BUCKET_VARIABLE), None)
            if not bucket:
                return f"{key} in the bucket"
            return f"{bucket if has_scheme(bucket) else f's3://{bucket}'}/{key}"
    return ""


def _table(name: str, steps: list[Step]) -> Table:
    table = Table("step", "phase", "duration", "", title=Text(name), title_justify="left", box=None)
    for step in steps:
        phase = Text(step.phase, style=COLOURS.get(step.phase, "default"))
        table.add_row(Text(step.name), phase, step.duration, Text(step.message))
    return table


def _explain(cluster: Cluster, workflow: Document, name: str, console: Console) -> None:
    """Show why a workflow failed: of each step that did, the line that says it, then what led there."""
    failed = failed_pods(workflow)
    if not failed and workflow["status"].get("message"):
        console.print(Text(f"  {workflow['status']['message']}"))
    for title, node in failed.items():
        try:
            lines = own_lines(cluster.log(name, node, 2 * LOG_LINES))[-LOG_LINES:]
        except (ConnectionLostError, PipelineError) as error:
            lines = [f"(no log: {error})"]
        message = node.get("message") or node["phase"]
        errors = [line for line in lines if line.startswith("error:")]
        if errors:
            console.print(Text(f"{title}: {errors[-1]}", style="red"), soft_wrap=True)
            lines = [f"({message})", *(line for line in lines if line != errors[-1])]
        else:
            console.print(Text(f"{title}: {message}", style="red"), soft_wrap=True)
        for line in lines or ["(no log)"]:
            console.print(Text(f"  {line}"), soft_wrap=True)


def own_lines(lines: Sequence[str]) -> list[str]:
    """Return a container's lines without those that Argo's executor writes among them, as text or as JSON."""
    return [line for line in lines if not re.match(r'time=.* level=.*\bargo=true|\{.*"argo": ?true', line)]
