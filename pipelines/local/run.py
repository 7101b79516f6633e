"""From a dump to a trained, evaluated, uploaded model on one machine."""

import json
import os
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.filesize import decimal
from rich.table import Column, Table
from rich.text import Text

from pipelines.errors import PipelineError
from pipelines.local.executor import Run, StepFailedError, execute, plan
from pipelines.local.s3_server import S3Server, s3_server
from pipelines.local.sample import draw_sample
from pipelines.manifest.reader import Manifest
from pipelines.manifest.sweep import new_name, part, read_sweep, without
from pipelines.workflow.parameters import ANNOTATION_PATH, EPOCHS, OUTPUT_PATH
from steps.common.errors import StepError
from steps.cvat.address import EXAMPLE, parse
from steps.dump.source import LocalFolder, files_of, locate
from steps.storage.config import BUCKET_VARIABLE, StorageConfig
from steps.storage.store import open_storage

BUCKET = "cvat-detr"
# Drawn shapes are learned sooner than photographs. Whatever is given in `--param` wins.
FOR_SAMPLE = {EPOCHS.name: "2"}


def run_locally(manifest: Path, dump: str, overrides: Mapping[str, str], runs: Path, console: Console) -> Run:
    """Run the compiled workflow against an S3 server of its own, and show what came out.

    Args:
        manifest: a compiled manifest.
        dump: a dump's folder or zip, or the address of tasks on a CVAT server; empty draws a sample.
        overrides: workflow parameters.
        runs: folder in which the run gets its own; `latest` there points to it.
        console: where to show what happens.

    Raises:
        PipelineError: the dump is not there, a parameter is wrong, or a step failed.
    """
    started = time.monotonic()
    workflow, annotation_path = _checked(manifest, dump, overrides, runs)
    fixed = {ANNOTATION_PATH.name: annotation_path}
    run = plan(workflow, {**({} if dump else FOR_SAMPLE), **overrides, **fixed}, runs)
    _make(run.folder)
    _point(runs / "latest", run.folder)

    console.print(Text.assemble((run.name, "bold"), f" in {_short(run.folder)}"))
    with _served(dump, annotation_path, console) as server:
        execute(run, {**server.environment, BUCKET_VARIABLE: BUCKET}, console)
        place = f"{run.namespace}/{run.parameters[OUTPUT_PATH.name]}/{run.name}"
        _show_bucket(server, "".join(f"{part}/" for part in place.split("/") if part), console)
    _show_result(run, time.monotonic() - started, console)
    return run


def sweep_locally(
    manifest: Path, dump: str, given: Mapping[str, str], runs: Path, console: Console
) -> tuple[Path, list[str]]:
    """Train with each combination of the given values, one after the other, on data that is fetched and prepared once.

    Args:
        manifest: a compiled manifest.
        dump: as in `run_locally`.
        given: values by name, several with commas between them.
        runs: folder in which the sweep gets its own.
        console: where to show what happens.

    Returns:
        The sweep's folder, and the names of the runs that failed; the others went on.

    Raises:
        PipelineError: the dump is not there, a parameter is wrong or cannot vary, or the data could not be made.
    """
    workflow, annotation_path = _checked(manifest, dump, given, runs)
    fixed = {ANNOTATION_PATH.name: annotation_path}
    sweep = read_sweep(workflow, {**({} if dump else FOR_SAMPLE), **given}, fixed)
    folder = runs.absolute() / new_name(workflow)
    data = plan(_named(part(workflow, {"fetch", "prepare"}), "data"), sweep.fixed, folder)
    training = without(workflow, {"fetch", "prepare", "remember"})
    planned = [
        (each, plan(_named(training, f"{folder.name}-{each.number}"), each.overrides, folder))
        for each in sweep.combinations
    ]
    _make(folder)
    _make(data.folder)
    _point(runs / "latest", folder)
    count = len(planned)
    console.print(Text.assemble((folder.name, "bold"), f" in {_short(folder)}: {count} runs"))
    failed = []
    with _served(dump, annotation_path, console) as server:
        environment = {**server.environment, BUCKET_VARIABLE: BUCKET}
        execute(data, environment, console)
        for combination, run in planned:
            title = f"{combination.number} of {count}  {combination.words}"
            console.print(Text.assemble((title, "bold"), f"  in {_short(run.folder)}"))
            _make(run.folder)
            run.data.symlink_to(os.path.relpath(data.data, run.folder))
            try:
                execute(run, environment, console)
            except StepFailedError as error:
                console.print(Text(f"error: {error}", style="red"), soft_wrap=True)
                failed.append(run.name)
    return folder, failed


def _named(manifest: Manifest, name: str) -> Manifest:
    return replace(manifest, metadata={**manifest.metadata, "name": name})


def _checked(manifest: Path, dump: str, given: Mapping[str, str], runs: Path) -> tuple[Manifest, str]:
    """Read the manifest, once what stands in the way of a run is ruled out; give it with the dump's place for fetch."""
    if ANNOTATION_PATH.name in given:
        raise PipelineError(f"'{ANNOTATION_PATH.name}' is set by `run`: name the dump with --dump (make run DUMP=path)")
    try:
        on_server = bool(parse(dump))
    except StepError as error:
        raise PipelineError(str(error)) from None
    path = Path(dump)
    if dump and not on_server and not path.exists():
        raise PipelineError(
            f"{dump} does not exist: give --dump the folder or .zip that CVAT exported, or a task's address, as in "
            f"{EXAMPLE}"
        )
    latest = runs / "latest"
    if latest.is_dir() and not latest.is_symlink():
        raise PipelineError(
            f"{latest} is a folder, and `run` keeps a link of that name: rename it, or give other --runs"
        )
    workflow = Manifest.load(manifest)
    # Where CVAT puts the dump of a namespace's first task: by the task's number, then date and time.
    prefix = f"artifacts/{workflow.namespace}/annotations/1/{time.strftime('%m%d%Y%H%M%S')}/"
    return workflow, dump if on_server else prefix


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True)
    except FileExistsError:
        raise PipelineError(f"{folder} exists already: remove it, or give --runs another folder") from None


@contextmanager
def _served(dump: str, annotation_path: str, console: Console) -> Iterator[S3Server]:
    """Run an S3 server that holds the dump."""
    with s3_server() as server:
        server.client().create_bucket(Bucket=BUCKET)
        storage = StorageConfig(
            bucket=BUCKET,
            endpoint=server.endpoint,
            access_key=server.access_key,
            secret_key=server.secret_key,
        )
        what = dump
        if annotation_path != dump:
            with tempfile.TemporaryDirectory(prefix="dump-") as folder:
                count = _put_dump(Path(dump) if dump else draw_sample(Path(folder)), annotation_path, storage)
            files = f"{count} file{'s' if count > 1 else ''}"
            what = f"{dump or 'a generated sample'}, {files} in s3://{BUCKET}/{annotation_path}"
        console.print(Text(f"dump: {what}"), soft_wrap=True)
        yield server


def _put_dump(dump: Path, prefix: str, storage: StorageConfig) -> int:
    """Put a dump into the bucket, a folder file by file as CVAT does, a zip as it is; return the number of files."""
    try:
        source = locate(str(dump.absolute()), "", StorageConfig())
        bucket, key = open_storage(prefix, storage)
        match source:
            case LocalFolder(folder):
                files = [(path, f"{key}/{name}") for name, path in files_of(folder).items()]
            case _:
                files = [(dump, f"{key}/{dump.stem}.zip")]
        bucket.upload(files)
    except StepError as error:
        raise PipelineError(str(error)) from None
    return len(files)


def _point(link: Path, folder: Path) -> None:
    """Let `link` point to `folder`, without a moment in which it points nowhere."""
    temporary = link.with_name(f".{folder.name}.link")
    temporary.symlink_to(folder.name)
    os.replace(temporary, link)


def _show_bucket(server: S3Server, prefix: str, console: Console) -> None:
    pages = server.client().get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=prefix)
    table = Table(
        "size", Column(Text(f"s3://{BUCKET}/{prefix}")), title="in the bucket", title_justify="left", box=None
    )
    table.columns[0].justify = "right"
    for page in pages:
        for entry in page.get("Contents", []):
            table.add_row(decimal(entry["Size"]), Text(entry["Key"].removeprefix(prefix)))
    console.print(table)


def _show_result(run: Run, seconds: float, console: Console) -> None:
    metrics, training = _read(run.output / "metrics.json"), _read(run.output / "train.json")
    images = _read(run.data / "prepare_report.json")["images"]
    point = metrics["operating_points"]["combined"]
    columns = {
        "AP": f"{metrics['AP']:.3f}",
        "AP50": f"{metrics['AP50']:.3f}",
        # A model that finds nothing has no score to measure them at.
        **{name: "-" if point[name] is None else f"{point[name]:.2f}" for name in ("precision", "recall")},
        "classes": str(len(metrics["per_class"])),
        "images": f"{images['train']}+{images['val']}",
        "s a step": f"{training['seconds_per_step']:.3f}",
        "minutes": f"{seconds / 60:.1f}",
    }
    table = Table(*columns, title=Text(run.name), title_justify="left")
    table.add_row(*columns.values())
    console.print(table)
    console.print(Text(f"report: {_short(run.output / 'report.html')}"), soft_wrap=True)
    console.print(Text(f"model:  {_short(run.output / 'checkpoints' / 'best.pth')}"), soft_wrap=True)


def _read(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_bytes())
    return content


def _short(path: Path) -> str:
    return os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)
