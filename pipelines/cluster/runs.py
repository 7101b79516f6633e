"""Runs by their names: their logs, the list of them, stopping one and taking it up again."""

from rich.console import Console
from rich.table import Table
from rich.text import Text

from pipelines.cluster.nodes import FINISHED, duration, phase_of, seconds_of, steps_of
from pipelines.cluster.protocol import Cluster, Document
from pipelines.cluster.submit import until_answered
from pipelines.cluster.watch import COLOURS, own_lines
from pipelines.errors import PipelineError
from pipelines.workflow.contract import LABELS, SWEEP_LABEL
from steps.common.console import say


def print_logs(cluster: Cluster, name: str, step: str) -> None:
    """Print what the steps of a workflow wrote.

    Raises:
        PipelineError: there is no such workflow or step, or the cluster does not answer.
    """
    steps = steps_of(until_answered(lambda: cluster.get(name)))
    chosen = [each for each in steps if step in ("", each.name)]
    if step and not chosen:
        there = ", ".join(each.name for each in steps) or "none yet"
        raise PipelineError(f"workflow '{name}' has run no step '{step}': there are {there}")
    for each in chosen:
        if not step:
            say(f"==> {each.name} <==")
        if each.node:
            node = each.node
            for line in own_lines(until_answered(lambda node=node: cluster.log(name, node, None))):
                say(line)


def print_list(cluster: Cluster, sweep: str, console: Console) -> None:
    """Print the training workflows of a namespace, the newest first, or those of a sweep."""
    table = Table("name", "phase", "created", "duration", "sweep", box=None)
    found = _labelled(cluster, {**LABELS, **({SWEEP_LABEL: sweep} if sweep else {})})
    for workflow in sorted(found, key=lambda each: str(each["metadata"].get("creationTimestamp")), reverse=True):
        metadata, phase = workflow["metadata"], phase_of(workflow)
        table.add_row(
            Text(metadata["name"]),
            Text(phase, style=COLOURS.get(phase, "default")),
            str(metadata.get("creationTimestamp", "")),
            duration(seconds_of(workflow.get("status", {}))),
            Text((metadata.get("labels") or {}).get(SWEEP_LABEL, "")),
        )
    if found:
        # Names are there to be copied, however narrow the window or the pipe.
        console.width = 1000
        console.print(table)
    else:
        console.print(f"no training workflows in namespace {cluster.namespace}")


def stop(cluster: Cluster, name: str) -> list[str]:
    """Stop a workflow, or those of a sweep that are not finished; return their names.

    Raises:
        PipelineError: there is neither, they are finished, or the cluster does not answer.
    """
    found = _labelled(cluster, {SWEEP_LABEL: name}) or [until_answered(lambda: cluster.get(name))]
    running = [each for each in found if phase_of(each) not in FINISHED]
    if not running:
        raise PipelineError(f"{name} is finished already: {', '.join(sorted({phase_of(each) for each in found}))}")
    # Those that wait first, or one would begin with the lock that another leaves.
    running.sort(key=lambda each: phase_of(each) != "Pending")
    for each in running:
        until_answered(lambda each=each: cluster.stop(each["metadata"]["name"], waits=phase_of(each) == "Pending"))
    return [each["metadata"]["name"] for each in running]


def retry(cluster: Cluster, name: str) -> None:
    """Run the steps of a workflow again that failed or never ran.

    Raises:
        PipelineError: there is no such workflow, it has not failed, or the cluster cannot do it.
    """
    phase = phase_of(until_answered(lambda: cluster.get(name)))
    if phase not in ("Failed", "Error"):
        raise PipelineError(f"workflow '{name}' is {phase}: only one that failed or was stopped can be retried")
    until_answered(lambda: cluster.retry(name))


def _labelled(cluster: Cluster, labels: dict[str, str]) -> list[Document]:
    selector = ",".join(f"{key}={value}" for key, value in labels.items())
    found: list[Document] = until_answered(lambda: cluster.find(selector))
    return found
