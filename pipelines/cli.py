"""The workflow's commands."""

import dataclasses
import inspect
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
import yaml
from rich.console import Console

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
from steps.common.console import HELP, create_app, run_app

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


def _command(name: str, summary: str, *examples: str) -> Callable[[Callable[..., int]], Callable[..., int]]:
    """Add a command, with examples below its help."""
    # Click fills paragraphs, but for those that begin so.
    epilog = "\b\n" + "\n".join([f"Example{'s' * (len(examples) > 1)}:", *(f"  {each}" for each in examples)])
    return app.command(name, short_help=summary, epilog=epilog, context_settings=HELP)


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


def _console() -> Console:
    # Messages of pods and names of files are shown as they are, whatever brackets and colons they hold.
    return Console(markup=False, emoji=False, highlight=False)


@_command(
    "run",
    "Run the workflow on this machine.",
    "cvat-detr run",
    "cvat-detr run --dump task_7.zip --epochs 50 --model detr_resnet50",
    "cvat-detr run --dump task_7.zip --param batch-size=4 --param 'hyperparameters=lr: 0.0002'",
)
def run_command(
    dump: Annotated[
        Path | None, typer.Option(help="The dump, a folder or .zip.", show_default="a generated sample")
    ] = None,
    epochs: Annotated[
        str, typer.Option(metavar="N|auto", help=f"{EPOCHS.hint} Short for --param epochs=…", show_default=EPOCHS.value)
    ] = "",
    model: Annotated[
        str,
        typer.Option(
            metavar="MODEL",
            help=f"{MODEL.hint} Short for --param model=…",
            show_default=MODEL.value,
        ),
    ] = "",
    param: Overrides = [],  # noqa: B006 - typer copies it
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
        run_locally(manifest, dump, {**short, **read_overrides(param)}, runs, _console())
    except StepFailedError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _takes(options: type) -> Callable[[Callable[..., int]], Callable[..., int]]:
    """Give a command a flag for every field of `options`, in place of its own `**settings`."""

    def add(command: Callable[..., int]) -> Callable[..., int]:
        own = [each for each in inspect.signature(command).parameters.values() if each.kind is not each.VAR_KEYWORD]
        for each in dataclasses.fields(options):
            structured = each.default is dataclasses.MISSING
            shown = each.metadata["empty"] or str(each.default)
            option = typer.Option(help=each.metadata["help"], show_default=shown, metavar="YAML" if structured else None)
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
    chosen = merged(read_settings(output), given)
    for relative, text in manifests(Options.create(chosen)).items():
        path = output / relative
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        print(path)
    if given:
        write_settings(output, chosen)
        print(output / SETTINGS_FILE)
    return 0


def _parsed(name: str, value: Any) -> Any:
    """Read the value of a flag whose setting is a mapping or a list."""
    (field,) = (each for each in dataclasses.fields(Options) if each.name == name)
    if field.default is not dataclasses.MISSING:
        return value
    try:
        return yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise PipelineError(f"--{name.replace('_', '-')} is not YAML: {' '.join(str(error).split())}") from None


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


@_command(
    "submit",
    "Create the workflow on a cluster.",
    "cvat-detr submit --watch --param cvat-annotation-path=annotation-dump/7/",
    "cvat-detr submit --from-template detr-training --param epochs=50 --namespace team",
)
def submit_command(
    param: Overrides = [],  # noqa: B006 - typer copies it
    from_template: Annotated[
        str, typer.Option(help="Installed WorkflowTemplate to refer to.", show_default="the manifest is sent")
    ] = "",
    watch: Annotated[bool, typer.Option("--watch", help="Watch it until it is finished.")] = False,
    manifest: Annotated[
        Path, typer.Option(help="The compiled workflow to submit.", show_default="the committed one")
    ] = WORKFLOW,
    via: Via = "auto",
    context: Context = "",
    namespace: Namespace = "",
) -> int:
    """Create the workflow on a cluster."""
    from pipelines.cluster.connect import connect
    from pipelines.cluster.submit import submit

    cluster = connect(via, context=context, namespace=namespace)
    name = submit(cluster, Manifest.load(manifest), read_overrides(param), from_template)
    print(f"submitted {name} in namespace {cluster.namespace}")
    if watch:
        return _watch(cluster, name)
    print(f"watch it: python -m pipelines watch {name} --namespace {cluster.namespace}")
    return 0


@_command("watch", "Watch a workflow until it is finished.", "cvat-detr watch detr-training-x7k2p --namespace team")
def watch_command(
    name: Annotated[str, typer.Argument(help="Name of the workflow.")],
    via: Via = "auto",
    context: Context = "",
    namespace: Namespace = "",
) -> int:
    """Watch a workflow until it is finished; the exit status is 0 only if it succeeded."""
    from pipelines.cluster.connect import connect

    return _watch(connect(via, context=context, namespace=namespace), name)


def _watch(cluster: "Cluster", name: str) -> int:
    from pipelines.cluster.watch import watch

    try:
        return 0 if watch(cluster, name, _console()) else 1
    except KeyboardInterrupt:
        again = f"python -m pipelines watch {name} --namespace {cluster.namespace}"
        print(f"stopped watching; the workflow keeps running: {again}", file=sys.stderr)
        return 130


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
    """Register the template in Onepanel, labelled for CVAT.

    Reads ONEPANEL_API_URL, ONEPANEL_NAMESPACE and ONEPANEL_TOKEN; if the token is what `opctl auth token` prints,
    ONEPANEL_USERNAME too.
    """
    from pipelines.cluster.onepanel import publish
    from pipelines.manifest.lint import lint

    problems = lint(manifest)
    if problems:
        raise PipelineError(
            f"{manifest} would be refused: {problems[0]}; `python -m pipelines lint` lists all problems"
        )
    template = publish(name, read_text(manifest), os.environ)
    if template.changed:
        print(f"published '{name}' as {template.uid}, version {template.version}")
    else:
        print(f"'{name}' is up to date: version {template.version} of {template.uid} is this manifest")
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
            print(f"{path}: {problem}", file=sys.stderr)
        count = f"{len(problems)} problem{'s' if len(problems) > 1 else ''}"
        print(f"{path}: {count}" if problems else f"{path}: ok")
        failed += bool(problems)
    return 1 if failed else 0


def main() -> None:
    """Run a command: exit 0, 1 if a step failed, 2 with one line if the input is at fault."""
    sys.exit(run_app(app, PipelineError))
