"""Run a compiled workflow on this machine: its DAG, its containers' arguments, its retries."""

import contextlib
import os
import random
import re
import signal
import string
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.text import Text
from simpleeval import EvalWithCompoundTypes, InvalidExpression

from pipelines.errors import PipelineError
from pipelines.manifest.reader import DagTask, Manifest, substitute
from pipelines.workflow.contract import POD_VARIABLES, STEPS_COMMAND

LINES_SHOWN = 20
SECONDS_TO_STOP = 10
PROJECT = Path(__file__).resolve().parents[2]


class StepFailedError(PipelineError):
    """A step of the workflow failed, and its retries too."""


@dataclass(frozen=True)
class Task:
    """A step, ready to run: what Argo would hand to the container, with this machine's paths."""

    name: str
    command: Sequence[str]
    environment: Mapping[str, str]
    retries: Mapping[str, Any]
    outputs: Mapping[str, Path]
    """Where the step writes each of its output parameters."""
    when: str
    """Condition under which it runs; empty for always."""


@dataclass(frozen=True)
class Run:
    """One run of a workflow and the folder of what it writes."""

    name: str
    namespace: str
    folder: Path
    parameters: Mapping[str, str]
    tasks: Sequence[Task]

    @property
    def data(self) -> Path:
        """Folder of the volume that holds the dataset."""
        return self.folder / "data"

    @property
    def output(self) -> Path:
        """Folder of the volume that holds what the run makes."""
        return self.folder / "output"


def plan(manifest: Manifest, overrides: Mapping[str, str], runs: Path) -> Run:
    """Work out everything that a run needs, before anything is started.

    Raises:
        PipelineError: a parameter is unknown, or its value is one that the step would refuse.
    """
    suffix = "".join(random.choices(string.ascii_lowercase + string.digits, k=5))
    name = manifest.metadata.get("name") or f"{manifest.metadata.get('generateName', 'workflow-')}{suffix}"
    folder = runs.absolute() / name
    manifest.check(overrides)
    parameters = manifest.parameters(overrides)
    values = {f"workflow.parameters.{key}": value for key, value in parameters.items()}
    values |= {"workflow.name": name, "workflow.namespace": manifest.namespace}
    tasks = [_task(task, values, manifest, folder) for task in manifest.tasks()]
    return Run(name, manifest.namespace, folder, parameters, tasks)


def _task(task: DagTask, values: Mapping[str, str], manifest: Manifest, folder: Path) -> Task:
    name, template = task.name, task.template
    container = template["container"]
    args = container["args"]
    if args[:3] != STEPS_COMMAND:
        raise PipelineError(f"{manifest.path}: '{name}' runs {args[:3]}: only `python -m steps` can be run here")

    # Every pod has a /tmp of its own; claims outlive it. Other volumes exist only on the cluster.
    claims = {claim["metadata"]["name"] for claim in manifest.spec.get("volumeClaimTemplates", [])}
    folders = {
        mount["mountPath"]: folder / mount["name"]
        for mount in container.get("volumeMounts", [])
        if mount["name"] in claims
    }
    folders["/tmp"] = folder / "tmp" / name  # noqa: S108
    environment = {
        entry["name"]: entry["value"]
        for entry in container.get("env", [])
        if "value" in entry and entry["name"] not in POD_VARIABLES
    }
    return Task(
        name,
        [sys.executable, *(_local(argument, folders, values) for argument in args[1:])],
        environment,
        template.get("retryStrategy") or {},
        {
            each["name"]: Path(_local(each["valueFrom"]["path"], folders, values))
            for each in template.get("outputs", {}).get("parameters", [])
        },
        task.when,
    )


def _local(argument: str, folders: Mapping[str, Path], values: Mapping[str, str]) -> str:
    """Return an argument with its values, and as a local path where it is one in one of the container's volumes.

    Only the manifest knows the volumes: a value that reads like a path in one of them is the user's own.
    """
    for mount, folder in folders.items():
        if argument == mount or argument.startswith(f"{mount}/"):
            return f"{folder}{substitute(argument.removeprefix(mount), values)}"
    return substitute(argument, values)


def execute(run: Run, environment: Mapping[str, str], console: Console) -> None:
    """Run the steps one after the other, each as a process of its own.

    Each writes to `logs/NAME.log` in the run's folder; on the console its lines show as they come.

    Args:
        run: what `plan` returned.
        environment: variables for every step, on top of the manifest's.
        console: where to show what happens.

    Raises:
        StepFailedError: a step failed, and its retries too. The message names it, its last lines and its log.
    """
    outputs: dict[str, str] = {}
    for task in run.tasks:
        if not _applies(task.when, outputs):
            console.print(_ended("○", "dim", task.name, "skipped"))
            continue
        log = run.folder / "logs" / f"{task.name}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        (run.folder / "tmp" / task.name).mkdir(parents=True, exist_ok=True)
        run.data.mkdir(exist_ok=True)
        run.output.mkdir(exist_ok=True)
        # The user's own credentials in the environment must not reach the user's own bucket.
        inherited = {key: value for key, value in os.environ.items() if not key.startswith("AWS_")}
        paths = [str(PROJECT), *filter(None, [inherited.get("PYTHONPATH")])]
        variables = {**inherited, "PYTHONPATH": os.pathsep.join(paths), **task.environment, **environment}
        for attempt in range(int(task.retries.get("limit", 0)) + 1):
            started = time.monotonic()
            status, last = _attempt(task, variables, log, console)
            seconds = time.monotonic() - started
            if status == 0:
                console.print(_ended("✓", "green", task.name, f"{seconds:.1f} s"))
                outputs |= {
                    f"tasks.{task.name}.outputs.parameters.{name}": path.read_text(encoding="utf-8")
                    for name, path in task.outputs.items()
                    if path.is_file()
                }
                break
            console.print(_ended("✗", "red", task.name, f"{seconds:.1f} s, exit status {status}"))
            if attempt == int(task.retries.get("limit", 0)) or not _may_retry(task.retries, status, seconds, attempt):
                lines = "\n".join(f"    {line}" for line in last)
                raise StepFailedError(f"step '{task.name}' failed with exit status {status}\n{lines}\n  its log: {log}")
            pause = _pause(task.retries.get("backoff") or {}, attempt)
            after = f" in {pause:.0f} s" if pause else ""
            console.print(f"  trying again{after} ({attempt + 1} of {task.retries['limit']})")
            time.sleep(pause)


def _ended(mark: str, colour: str, name: str, text: str) -> Text:
    return Text.assemble((mark, colour), " ", (name, "bold"), f"  {text}")


def _applies(when: str, outputs: Mapping[str, str]) -> bool:
    """Return whether a task's condition holds, given the output parameters of those before it."""
    if not when:
        return True
    condition = substitute(when, outputs)
    try:
        return bool(EvalWithCompoundTypes(names={"true": True, "false": False}).eval(condition))
    except InvalidExpression as error:
        raise PipelineError(f"the condition '{condition}' cannot be evaluated here: {error}") from None


def _may_retry(retries: Mapping[str, Any], status: int, seconds: float, attempt: int) -> bool:
    """Return whether the manifest's retry strategy covers a container's failure."""
    if retries.get("retryPolicy", "OnFailure") not in ("Always", "OnFailure"):
        return False  # A process that ended has failed; Argo's "error" is a pod that was lost.
    if "expression" not in retries:
        return True
    expression = retries["expression"].replace("&&", " and ").replace("||", " or ")
    expression = re.sub(r"!(?!=)", " not ", expression)
    expression = re.sub(r"([\w.]+) contains ('[^']*')", r"(\2 in \1)", expression)
    last = {"exitCode": str(status), "status": "Failed", "duration": str(int(seconds)), "message": ""}
    names = {"lastRetry": last, "retries": str(attempt)}
    try:
        return bool(EvalWithCompoundTypes(names=names, functions={"asInt": int, "asFloat": float}).eval(expression))
    except InvalidExpression as error:
        raise PipelineError(
            f"the retry expression '{retries['expression']}' cannot be evaluated here: {error}"
        ) from None


def _pause(backoff: Mapping[str, Any], attempt: int) -> float:
    """Return how long to wait before the next attempt, in seconds, as Argo counts it."""

    def duration(text: str) -> float:
        return float(text[:-1]) * {"s": 1, "m": 60, "h": 3600}[text[-1]] if text[-1:].isalpha() else float(text)

    pause = duration(str(backoff.get("duration", "0"))) * int(backoff.get("factor", 1)) ** attempt
    return min(pause, duration(str(backoff["cap"]))) if "cap" in backoff else pause


def _attempt(task: Task, environment: Mapping[str, str], log: Path, console: Console) -> tuple[int, list[str]]:
    """Run a step once; return its exit status and its last lines."""
    last: deque[str] = deque(maxlen=LINES_SHOWN)
    columns = (SpinnerColumn(), TextColumn("{task.description}", style="bold", markup=False), TimeElapsedColumn())
    with (
        log.open("a", encoding="utf-8") as file,
        Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as clock,
        _process(task.command, environment) as process,
    ):
        clock.add_task(task.name)
        if not console.is_terminal:
            console.print(Text(f"▶ {task.name}"))
        assert process.stdout is not None
        for line in process.stdout:
            file.write(line)
            file.flush()
            last.append(line.rstrip("\n"))
            console.print(Text(f"  {line.rstrip()}", style="dim"), soft_wrap=True)
        status = process.wait()
    # A shell, and Kubernetes, say 128 + the number of the signal that ended a process.
    return (status if status >= 0 else 128 - status), list(last)


@contextlib.contextmanager
def _process(command: Sequence[str], environment: Mapping[str, str]) -> "Iterator[subprocess.Popen[str]]":
    """Start a process and make sure that neither it nor what it started outlives the block."""
    process = subprocess.Popen(
        command,
        env=dict(environment),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
        errors="replace",
        start_new_session=True,
    )
    try:
        yield process
    finally:
        for number, patience in ((signal.SIGTERM, SECONDS_TO_STOP), (signal.SIGKILL, None)):
            if process.poll() is not None:
                break
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(patience)
        if process.stdout is not None:
            process.stdout.close()


def stop_on_sigterm() -> None:
    """Let a plain `kill` end the run as Ctrl-C does, so that nothing that it started is left."""

    def stop(number: int, frame: object) -> NoReturn:
        raise SystemExit(128 + number)

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGHUP, stop)
