"""The workflow's commands."""

import dataclasses
import inspect
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
import yaml
from rich.table import Column, Table
from rich.text import Text

from pipelines.errors import PipelineError
from pipelines.local.executor import StepFailedError, stop_on_sigterm
from pipelines.manifest.reader import Manifest, read_text
from pipelines.workflow.compile import manifests
from pipelines.workflow.contract import MANIFESTS, ONEPANEL_SPEC, WORKFLOW
from pipelines.workflow.options import (
    SETTINGS_FILE,
    Options,
    chosen_options,
    merged,
    read_settings,
    write_settings,
)
from pipelines.workflow.parameters import EPOCHS, MODEL
from steps.common.console import HELP, Screen, create_app, log_to, run_app, say
from steps.common.errors import StepError
from steps.common.files import parse_yaml
from steps.common.messages import unmarked

if TYPE_CHECKING:
    from pipelines.cluster.protocol import Cluster

OUTPUT = MANIFESTS if MANIFESTS.is_dir() else Path("manifests")
"""Where manifests are written unless told otherwise: over the committed ones, in a checkout of this project."""

app = create_app(
    None,
    "The training workflow as code: compile it, run it here, send it to a cluster.",
    "Each command explains itself: cvat-detr run --help. `python -m pipelines` is the same program.",
)

Overrides = Annotated[
    list[str],
    typer.Option("--param", "-p", metavar="NAME=VALUE", help="A workflow parameter; may be repeated."),
]


Via = Annotated[
    str,
    typer.Option(
        metavar="[auto|argo|kubernetes]",
        help="argo: the server of ARGO_SERVER, with ARGO_TOKEN; kubernetes: KUBECONFIG, or the pod that this runs in; "
        "auto: the first that is configured.",
    ),
]
Context = Annotated[str, typer.Option(help="Context of the kubeconfig.", show_default="the current one")]
Namespace = Annotated[
    str, typer.Option(help="Namespace.", show_default="ARGO_NAMESPACE, else the context's, else 'default'")
]


def _command(name: str, summary: str, *examples: str) -> Callable[[Callable[..., int]], Callable[..., int]]:
    """Add a command, with examples below its help."""
    # Click fills paragraphs, but for those that begin so.
    epilog = "\b\n" + "\n".join([f"Example{'s' * (len(examples) > 1)}:", *(f"  {each}" for each in examples)])
    return app.command(name, short_help=summary, epilog=epilog, context_settings=HELP)


def _from_make(name: str) -> dict[str, Any]:
    """Settings of an option that `make run` gives by the environment, where no shell reads it."""
    return {"envvar": f"CVAT_DETR_{name}", "show_envvar": False}


def read_overrides(given: list[str]) -> dict[str, str]:
    """Read `name=value` pairs.

    Raises:
        PipelineError: one has no `=`.
    """
    overrides = {}
    for pair in given:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise PipelineError(f"--param '{pair}' is not a parameter: write name=value")
        overrides[name.strip()] = value
    return overrides


@_command(
    "run",
    "Run the workflow on this machine.",
    "cvat-detr run",
    "cvat-detr run --dump task_7.zip --epochs 50 --model detr_resnet50",
    "cvat-detr run --dump https://cvat.example.com/tasks/42 --param cvat-job-state=completed",
    "cvat-detr run --dump task_7.zip --param batch-size=4 --param 'hyperparameters=lr: 0.0002'",
)
def run_command(
    dump: Annotated[
        str,
        typer.Option(
            help="The dump, a folder or .zip; or tasks of a CVAT server, by their address.",
            show_default="a generated sample",
            **_from_make("DUMP"),
        ),
    ] = "",
    epochs: Annotated[
        str,
        typer.Option(
            metavar="N|auto",
            help=f"{EPOCHS.hint} Short for --param epochs=…",
            show_default=EPOCHS.value,
            **_from_make("EPOCHS"),
        ),
    ] = "",
    model: Annotated[
        str,
        typer.Option(
            metavar="MODEL",
            help=f"{MODEL.hint} Short for --param model=…",
            show_default=MODEL.value,
            **_from_make("MODEL"),
        ),
    ] = "",
    param: Annotated[
        list[str],
        typer.Option(metavar="NAME=VALUE", help="A workflow parameter; may be repeated.", **_from_make("PARAMS")),
    ] = [],  # noqa: B006 - typer copies it
    manifest: Annotated[
        Path, typer.Option(help="The compiled workflow to run.", show_default="the committed one")
    ] = WORKFLOW,
    runs: Annotated[Path, typer.Option(help="Folder in which each run gets a folder of its own.")] = Path("runs"),
) -> int:
    """Run the compiled workflow on this machine, against an S3 server of its own."""
    from pipelines.local.run import run_locally

    stop_on_sigterm()
    short = {name: value for name, value in (("epochs", epochs), ("model", model)) if value}
    try:
        run_locally(manifest, dump, {**short, **read_overrides(param)}, runs, Screen())
    except StepFailedError as error:
        say(f"error: {error}", sys.stderr)
        return 1
    return 0


@_command(
    "sweep",
    "Train with several values of some parameters, and compare.",
    "cvat-detr sweep --dump task_7.zip --param lr=1e-4,3e-4 --param model=ddq_lite0,detr_resnet50",
    "cvat-detr sweep --cluster --at-once 4 --param cvat-annotation-path=annotation-dump/7/ --param lr=1e-4,3e-4",
)
def sweep_command(
    param: Annotated[
        list[str],
        typer.Option(
            "--param",
            "-p",
            metavar="NAME=VALUE[,VALUE...]",
            help="A workflow parameter or hyperparameter, with one value or several; may be repeated.",
        ),
    ],
    cluster: Annotated[bool, typer.Option("--cluster", help="On the cluster, instead of on this machine.")] = False,
    at_once: Annotated[int, typer.Option(metavar="N", help="On a cluster: how many runs at once, at most.")] = 1,
    dump: Annotated[
        str,
        typer.Option(
            help="On this machine: the dump, a folder or .zip; or tasks of a CVAT server, by their address.",
            show_default="a generated sample",
        ),
    ] = "",
    runs: Annotated[
        Path, typer.Option(help="On this machine: folder in which the sweep gets a folder of its own.")
    ] = Path("runs"),
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="On a cluster: print what would be sent, and send nothing.")
    ] = False,
    manifest: Annotated[Path, typer.Option(help="The compiled workflow.", show_default="the committed one")] = WORKFLOW,
    via: Via = "auto",
    context: Context = "",
    namespace: Namespace = "",
) -> int:
    """Train with each combination of the given values; the data is fetched and prepared once.

    On this machine one run follows another, and a comparison ends it. On a cluster each is a workflow of its own, all
    with one label; `compare` takes the folder in the bucket that they write to.
    """
    given = read_overrides(param)
    if cluster or dry_run:
        if dump:
            raise PipelineError("--dump is for this machine: on a cluster, give --param cvat-annotation-path=…")
        return _sweep_on_cluster(given, at_once, dry_run, manifest, via, context, namespace)
    from pipelines.local.run import sweep_locally

    stop_on_sigterm()
    try:
        folder, failed = sweep_locally(manifest, dump, given, runs, Screen())
    except StepFailedError as error:
        say(f"error: {error}", sys.stderr)
        return 1
    if any(folder.glob("*/output/metrics.json")):
        _compare([str(folder)], folder / "comparison.html")
    if failed:
        say(f"error: {len(failed)} of the runs failed: {', '.join(failed)}", sys.stderr)
    return 1 if failed else 0


def _sweep_on_cluster(
    given: dict[str, str], at_once: int, dry_run: bool, manifest: Path, via: str, context: str, namespace: str
) -> int:
    from pipelines.cluster.connect import connect
    from pipelines.cluster.source import pinned
    from pipelines.cluster.submit import addressed
    from pipelines.cluster.sweep import submit_sweep, sweep_workflows
    from pipelines.manifest.sweep import new_name

    compiled = Manifest.load(manifest)
    namespace = namespace or str(compiled.metadata.get("namespace", ""))
    given, word = pinned(compiled, given)
    if dry_run:
        where = namespace or os.environ.get("ARGO_NAMESPACE") or "default"
        workflows = sweep_workflows(compiled, given, new_name(compiled), where, at_once)
        instance = os.environ.get("ARGO_INSTANCEID", "")
        _remark(word)
        _write(yaml.safe_dump_all([addressed(each, where, instance) for each in workflows], sort_keys=False))
        return 0
    reached = connect(via, context=context, namespace=namespace)
    sent = submit_sweep(reached, compiled, given, at_once)
    _remark(word)
    say(f"submitted the sweep {sent.name} in namespace {reached.namespace}: its data, then {len(sent.runs)} runs")
    for name, words in sent.runs.items():
        say(f"  {name}  {words}")
    say(f"list them: cvat-detr list --sweep {sent.name} --namespace {reached.namespace}")
    say(f"compare them: cvat-detr compare {sent.folder} (a key in the bucket; or its whole address)")
    return 0


@_command(
    "compare",
    "Compare runs, in a table and on a page.",
    "cvat-detr compare runs/latest",
    "cvat-detr compare s3://models/team/workflow-data/output/detr-training-sweep-x7k2p --output lr.html",
)
def compare_command(
    places: Annotated[
        list[str],
        typer.Argument(metavar="RUN-OR-SWEEP...", help="Folders, addresses, or key prefixes in the bucket."),
    ],
    output: Annotated[Path, typer.Option(help="The page to write.")] = Path("comparison.html"),
) -> int:
    """Compare runs by what they left: a table here, and a page with curves and AP by class.

    With MLFLOW_TRACKING_URI set, the runs are sent there too.
    """
    _compare(places, output)
    return 0


def _compare(places: list[str], page: Path) -> None:
    from steps.compare import compare_runs

    log_to(sys.stdout)
    try:
        columns, rows, warnings = compare_runs(places, page)
    except StepError as error:
        raise PipelineError(str(error)) from None
    # Runs of a sweep differ at the end of their names.
    table = Table(Column(columns[0], no_wrap=True, min_width=max(len(row[0]) for row in rows)), *columns[1:])
    for row in rows:
        table.add_row(*map(Text, row))
    Screen().print(table)
    for warning in warnings:
        say(f"WARNING: {warning}")
    say(f"page: {page}")


def _takes(options: type) -> Callable[[Callable[..., int]], Callable[..., int]]:
    """Give a command a flag for every field of `options`, in place of its own `**settings`."""

    def add(command: Callable[..., int]) -> Callable[..., int]:
        own = [each for each in inspect.signature(command).parameters.values() if each.kind is not each.VAR_KEYWORD]
        for each in dataclasses.fields(options):
            structured = each.default is dataclasses.MISSING
            shown = each.metadata["empty"] or str(each.default)
            form = "YAML" if structured else None
            option = typer.Option(help=each.metadata["help"], show_default=shown, metavar=form)
            kind = str if structured else type(each.default)
            # None: not given, which is not the default where a file has chosen otherwise.
            hint = Annotated[kind | None, option]  # type: ignore[valid-type]
            own.append(inspect.Parameter(each.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=hint))
        command.__signature__ = inspect.Signature(own)  # type: ignore[attr-defined]
        command.__annotations__ = {each.name: each.annotation for each in own}
        return command

    return add


@_command(
    "compile",
    "Write the manifests.",
    "cvat-detr compile --image registry.example.com/team/cvat-detr:1 --volume-size 100Gi",
    "cvat-detr compile --output mine --resources '{train-detr: {limits: {memory: 64Gi}}}'",
)
@_takes(Options)
def compile_command(
    output: Annotated[Path, typer.Option(help="Folder for the manifests.", show_default="manifests/")] = OUTPUT,
    **settings: Any,
) -> int:
    """Write the manifests for Onepanel and for Argo Workflows.

    What is chosen is kept in compile.yaml beside them, so that it need not be said again.
    """
    given = {name: _parsed(name, value) for name, value in settings.items() if value is not None}
    chosen_options(output)  # Else the fault of the file would be told as one of the flags.
    chosen = merged(read_settings(output), given)
    for relative, text in manifests(Options.create(chosen)).items():
        path = output / relative
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        say(str(path))
    if given:
        write_settings(output, chosen)
        say(str(output / SETTINGS_FILE))
    return 0


def _parsed(name: str, value: Any) -> Any:
    """Read the value of a flag whose setting is a mapping or a list."""
    (field,) = (each for each in dataclasses.fields(Options) if each.name == name)
    if field.default is not dataclasses.MISSING:
        return value
    try:
        return parse_yaml(value)
    except ValueError as error:
        raise PipelineError(f"--{name.replace('_', '-')} is not YAML: {error}") from None


Output = Annotated[
    str, typer.Option("--output", "-o", metavar="[name|json|yaml]", help="What to print.", show_default="in words")
]


@_command(
    "submit",
    "Create the workflow on a cluster.",
    "cvat-detr submit --watch --param cvat-annotation-path=annotation-dump/7/",
    "cvat-detr submit --from-template detr-training --param epochs=50 --namespace team",
    "cvat-detr submit --dry-run --param cvat-annotation-path=annotation-dump/7/ | kubectl create -f -",
)
def submit_command(
    param: Overrides = [],  # noqa: B006 - typer copies it
    from_template: Annotated[
        str, typer.Option(help="Installed WorkflowTemplate to refer to.", show_default="the manifest is sent")
    ] = "",
    watch: Annotated[bool, typer.Option("--watch", help="Watch it until it is finished.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would be sent, and send nothing.")] = False,
    output: Output = "",
    manifest: Annotated[
        Path, typer.Option(help="The compiled workflow to submit.", show_default="the committed one")
    ] = WORKFLOW,
    via: Via = "auto",
    context: Context = "",
    namespace: Namespace = "",
) -> int:
    """Create the workflow on a cluster."""
    from pipelines.cluster.connect import connect
    from pipelines.cluster.source import pinned
    from pipelines.cluster.submit import addressed, build_workflow, installed, send

    if output not in ("", "name", "json", "yaml"):
        raise PipelineError(f"--output is '{output}': give name, json or yaml")
    compiled = Manifest.load(manifest)
    own = str(compiled.metadata.get("namespace", ""))
    if dry_run and not from_template:
        # Needs no cluster.
        overrides, word = pinned(compiled, read_overrides(param))
        workflow = build_workflow(compiled, overrides)
        _remark(word)
        _print_workflow(addressed(workflow, namespace, os.environ.get("ARGO_INSTANCEID", "")), output)
        return 0
    cluster = connect(via, context=context, namespace=namespace or own)
    if from_template:
        compiled = installed(cluster, compiled, from_template)
    overrides, word = pinned(compiled, read_overrides(param))
    workflow = build_workflow(compiled, overrides, from_template)
    if dry_run:
        _remark(word)
        _print_workflow(addressed(workflow, cluster.namespace, cluster.instance_id), output)
        return 0
    created = send(cluster, workflow)
    _remark(word)
    name = str(created["metadata"]["name"])
    if output:
        _print_workflow(created, output)
    else:
        say(f"submitted {name} in namespace {cluster.namespace}")
    if watch:
        return _watch(cluster, name)
    if not output:
        say(f"watch it: python -m pipelines watch {name} --namespace {cluster.namespace}")
    return 0


def _remark(word: str) -> None:
    """Say something beside what programs read."""
    if word:
        say(word, sys.stderr)


def _print_workflow(workflow: dict[str, Any], output: str) -> None:
    metadata = workflow["metadata"]
    if output == "name":
        say(str(metadata.get("name") or metadata["generateName"]))
    elif output == "json":
        _write(json.dumps(workflow, indent=2) + "\n")
    else:
        text = yaml.safe_dump(workflow, sort_keys=False, allow_unicode=True)
        # Written as escapes, marks that turn the line around are the same to a program.
        _write(text if unmarked(text) == text else yaml.safe_dump(workflow, sort_keys=False))


def _write(document: str) -> None:
    """Print what a program is to read, as it is: JSON and YAML escape what steers a terminal."""
    sys.stdout.write(document)


RunName = Annotated[str, typer.Argument(help="Name of the workflow.")]


@_command("watch", "Watch a workflow until it is finished.", "cvat-detr watch detr-training-x7k2p --namespace team")
def watch_command(name: RunName, via: Via = "auto", context: Context = "", namespace: Namespace = "") -> int:
    """Watch a workflow until it is finished; the exit status is 0 only if it succeeded."""
    from pipelines.cluster.connect import connect

    return _watch(connect(via, context=context, namespace=namespace), name)


def _watch(cluster: "Cluster", name: str) -> int:
    from pipelines.cluster.watch import watch

    try:
        return 0 if watch(cluster, name, Screen()) else 1
    except KeyboardInterrupt:
        again = f"python -m pipelines watch {name} --namespace {cluster.namespace}"
        say(f"stopped watching; the workflow keeps running: {again}", sys.stderr)
        return 130


@_command("logs", "Print what a workflow's steps wrote.", "cvat-detr logs detr-training-x7k2p --step train-detr")
def logs_command(
    name: RunName,
    step: Annotated[str, typer.Option(help="Only this step's.", show_default="all steps")] = "",
    via: Via = "auto",
    context: Context = "",
    namespace: Namespace = "",
) -> int:
    """Print what a workflow's steps wrote so far; of a step that was tried again, the last attempt."""
    from pipelines.cluster.connect import connect
    from pipelines.cluster.runs import print_logs

    print_logs(connect(via, context=context, namespace=namespace), name, step)
    return 0


@_command("list", "List the training workflows of a namespace.", "cvat-detr list --namespace team")
def list_command(
    sweep: Annotated[str, typer.Option(help="Only the runs of this sweep.", show_default="all")] = "",
    via: Via = "auto",
    context: Context = "",
    namespace: Namespace = "",
) -> int:
    """List the training workflows of a namespace, the newest first."""
    from pipelines.cluster.connect import connect
    from pipelines.cluster.runs import print_list

    print_list(connect(via, context=context, namespace=namespace), sweep, Screen())
    return 0


@_command("stop", "Stop a workflow, or all of a sweep.", "cvat-detr stop detr-training-x7k2p --namespace team")
def stop_command(
    name: Annotated[str, typer.Argument(help="Name of the workflow or the sweep.")],
    via: Via = "auto",
    context: Context = "",
    namespace: Namespace = "",
) -> int:
    """Stop a workflow, or all of a sweep; a training writes its checkpoint first, from which `retry` goes on."""
    from pipelines.cluster.connect import connect
    from pipelines.cluster.runs import stop

    for stopped in stop(connect(via, context=context, namespace=namespace), name):
        say(f"stopped {stopped}")
    return 0


@_command("retry", "Take a failed or stopped workflow up again.", "cvat-detr retry detr-training-x7k2p --watch")
def retry_command(
    name: RunName,
    watch: Annotated[bool, typer.Option("--watch", help="Watch it until it is finished.")] = False,
    via: Via = "auto",
    context: Context = "",
    namespace: Namespace = "",
) -> int:
    """Run the steps again that failed or never ran; a training goes on from its last checkpoint.

    Through the Kubernetes API this needs the argo command.
    """
    from pipelines.cluster.connect import connect
    from pipelines.cluster.runs import retry

    cluster = connect(via, context=context, namespace=namespace)
    retry(cluster, name)
    say(f"retrying {name} in namespace {cluster.namespace}")
    return _watch(cluster, name) if watch else 0


@_command(
    "publish",
    "Register the template in Onepanel.",
    "cvat-detr publish",
    "cvat-detr publish --name cells --manifest mine/onepanel/cells.yaml",
)
def publish_command(
    name: Annotated[str, typer.Option(help="Name of the template in Onepanel.")] = "detr-training",
    manifest: Annotated[
        Path, typer.Option(help="The compiled spec.", show_default="the committed one")
    ] = ONEPANEL_SPEC,
) -> int:
    """Register the template in Onepanel, labelled for CVAT; a branch of the source becomes the commit that it is now.

    Reads ONEPANEL_API_URL, ONEPANEL_NAMESPACE and ONEPANEL_TOKEN; if the token is what `opctl auth token` prints,
    ONEPANEL_USERNAME too.
    """
    from pipelines.cluster.onepanel import publish
    from pipelines.cluster.source import pinned
    from pipelines.manifest.lint import lint

    problems = lint(manifest)
    if problems:
        raise PipelineError(
            f"{manifest} would be refused: {problems[0]}; `python -m pipelines lint` lists all problems"
        )
    text = read_text(manifest)
    values, word = pinned(Manifest.load(manifest), {})
    if values:
        spec = yaml.safe_load(text)
        for parameter in spec["arguments"]["parameters"]:
            if parameter["name"] in values:
                parameter["value"] = values[parameter["name"]]
        text = yaml.safe_dump(spec, sort_keys=False, allow_unicode=True)
    template = publish(name, text, os.environ)
    _remark(f"{word}; publish again for a later one" if values else word)
    if template.changed:
        say(f"published '{name}' as {template.uid}, version {template.version}")
    else:
        say(f"'{name}' is up to date: version {template.version} of {template.uid} is this manifest")
    return 0


@_command("lint", "Check manifests.", "cvat-detr lint", "cvat-detr lint mine/onepanel/detr-training.yaml")
def lint_command(
    files: Annotated[list[Path] | None, typer.Argument(help="Manifests.", show_default="the committed ones")] = None,
    restricted: Annotated[
        bool, typer.Option("--restricted", help='Argo: also by the rules of Pod Security "restricted".')
    ] = False,
) -> int:
    """Check manifests as Argo, Onepanel and Kubernetes will, and with `argo lint` if that is installed."""
    from pipelines.manifest.lint import lint

    failed = 0
    for path in files or sorted(MANIFESTS / relative for relative in manifests(chosen_options(MANIFESTS))):
        problems = lint(path, restricted=restricted)
        for problem in problems:
            say(f"{path}: {problem}", sys.stderr)
        count = f"{len(problems)} problem{'s' if len(problems) > 1 else ''}"
        say(f"{path}: {count}" if problems else f"{path}: ok")
        failed += bool(problems)
    return 1 if failed else 0


def main() -> None:
    """Run a command: exit 0, 1 if a step failed, 2 with one line if the input is at fault."""
    sys.exit(run_app(lambda: app, PipelineError))
