"""The workflow's commands."""

import dataclasses
import inspect
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from pipelines.errors import PipelineError
from pipelines.local.executor import StepFailedError, stop_on_sigterm
from pipelines.manifest.reader import Manifest
from pipelines.workflow.options import Options
from steps.common.console import run_app

if TYPE_CHECKING:
    from pipelines.cluster.protocol import Cluster

MANIFESTS = Path(__file__).resolve().parent.parent / "manifests"
WORKFLOW = MANIFESTS / "argo" / "detr-training.workflow.yaml"
ONEPANEL_SPEC = MANIFESTS / "onepanel" / "detr-training.yaml"

app = typer.Typer(
    name="python -m pipelines",
    help="The training workflow as code: compile it, run it here, send it to a cluster.",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    no_args_is_help=True,
)

Overrides = Annotated[
    list[str],
    typer.Option("--param", "-p", metavar="NAME=VALUE", help="A workflow parameter; may be repeated."),
]


def read_overrides(given: list[str]) -> dict[str, str]:
    """Read `name=value` pairs.

    Raises:
        PipelineError: one has no `=`.
    """
    overrides = {}
    for pair in given:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise PipelineError(f"'{pair}' is no parameter: write name=value")
        overrides[name.strip()] = value
    return overrides


@app.command("run")
def run_command(
    dump: Annotated[Path | None, typer.Option(help="A dump, folder or .zip. Not given: a sample is drawn.")] = None,
    epochs: Annotated[str, typer.Option(help="Short for --param epochs=…")] = "",
    model: Annotated[str, typer.Option(help="Short for --param model=…")] = "",
    param: Overrides = [],  # noqa: B006 - typer copies it
    manifest: Annotated[Path, typer.Option(help="The compiled workflow to run.")] = WORKFLOW,
    runs: Annotated[Path, typer.Option(help="Folder in which each run gets a folder of its own.")] = Path("runs"),
) -> int:
    """Run the compiled workflow on this machine, against an S3 server of its own."""
    from pipelines.local.run import run_locally

    stop_on_sigterm()
    short = {name: value for name, value in (("epochs", epochs), ("model", model)) if value}
    console = Console(soft_wrap=False)
    try:
        run_locally(manifest, dump, {**short, **read_overrides(param)}, runs, console)
    except StepFailedError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _takes(options: type) -> Callable[[Callable[..., int]], Callable[..., int]]:
    """Give a command a flag for every field of `options`, in place of its own `**settings`."""

    def add(command: Callable[..., int]) -> Callable[..., int]:
        own = [each for each in inspect.signature(command).parameters.values() if each.kind is not each.VAR_KEYWORD]
        for each in dataclasses.fields(options):
            hint = Annotated[each.type, typer.Option(help=each.metadata["help"])]  # type: ignore[name-defined]
            own.append(
                inspect.Parameter(each.name, inspect.Parameter.KEYWORD_ONLY, default=each.default, annotation=hint)
            )
        command.__signature__ = inspect.Signature(own)  # type: ignore[attr-defined]
        command.__annotations__ = {each.name: each.annotation for each in own}
        return command

    return add


@app.command("compile")
@_takes(Options)
def compile_command(
    output: Annotated[Path, typer.Option(help="Folder for the manifests.")] = MANIFESTS, **settings: Any
) -> int:
    """Write the manifests: what Onepanel takes, and what Argo does."""
    from pipelines.workflow.compile import manifests

    for relative, text in manifests(Options(**settings)).items():
        path = output / relative
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        print(path)
    return 0


Via = Annotated[str, typer.Option(help="auto, argo (ARGO_SERVER, ARGO_TOKEN, …) or kubernetes (KUBECONFIG, …).")]
Context = Annotated[str, typer.Option(help="Context of the kubeconfig. Empty: the current one.")]
Namespace = Annotated[str, typer.Option(help="Namespace. Empty: ARGO_NAMESPACE, else the context's, else default.")]


@app.command("submit")
def submit_command(
    param: Overrides = [],  # noqa: B006 - typer copies it
    from_template: Annotated[str, typer.Option(help="Refer to this installed WorkflowTemplate.")] = "",
    watch: Annotated[bool, typer.Option("--watch", help="Watch it until it is finished.")] = False,
    manifest: Annotated[Path, typer.Option(help="The compiled workflow to submit.")] = WORKFLOW,
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


@app.command("watch")
def watch_command(
    name: Annotated[str, typer.Argument(help="Name of the workflow.")],
    via: Via = "auto",
    context: Context = "",
    namespace: Namespace = "",
) -> int:
    """Watch a workflow until it is finished; the exit status is 0 only when it succeeded."""
    from pipelines.cluster.connect import connect

    return _watch(connect(via, context=context, namespace=namespace), name)


def _watch(cluster: "Cluster", name: str) -> int:
    from pipelines.cluster.watch import watch

    try:
        return 0 if watch(cluster, name, Console()) else 1
    except KeyboardInterrupt:
        again = f"python -m pipelines watch {name} --namespace {cluster.namespace}"
        print(f"no longer watching; the workflow goes on: {again}", file=sys.stderr)
        return 130


@app.command("publish")
def publish_command(
    name: Annotated[str, typer.Option(help="Name of the template in Onepanel.")] = "detr-training",
    manifest: Annotated[Path, typer.Option(help="The compiled spec.")] = ONEPANEL_SPEC,
) -> int:
    """Register the template in Onepanel, labelled for CVAT.

    Reads ONEPANEL_API_URL, ONEPANEL_NAMESPACE and ONEPANEL_TOKEN; where the token is what `opctl auth token` prints,
    ONEPANEL_USERNAME too.
    """
    from pipelines.cluster.onepanel import publish
    from pipelines.manifest.lint import lint

    problems = lint(manifest)
    if problems:
        raise PipelineError(f"{manifest} would be refused: {problems[0]}; `python -m pipelines lint` lists all")
    template = publish(name, manifest.read_text(encoding="utf-8"), os.environ)
    if template.changed:
        print(f"published '{name}' as {template.uid}, version {template.version}")
    else:
        print(f"'{name}' is up to date: version {template.version} of {template.uid} is this manifest")
    return 0


@app.command("lint")
def lint_command(
    files: Annotated[list[Path] | None, typer.Argument(help="Manifests. Not given: the committed ones.")] = None,
) -> int:
    """Check manifests as Argo and Onepanel will, and with `argo lint` where it is installed."""
    from pipelines.manifest.lint import lint

    failed = 0
    for path in files or sorted(MANIFESTS.rglob("*.yaml")):
        problems = lint(path)
        for problem in problems:
            print(f"{path}: {problem}", file=sys.stderr)
        count = f"{len(problems)} problem{'s' if len(problems) > 1 else ''}"
        print(f"{path}: {count}" if problems else f"{path}: ok")
        failed += bool(problems)
    return 1 if failed else 0


def main() -> None:
    """Run a command: exit 0, 1 when a step failed, 2 with one line when the input is at fault."""
    sys.exit(run_app(app, PipelineError))
