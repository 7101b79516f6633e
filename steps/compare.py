"""Compare runs by what they left in folders or in object storage."""

import logging
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from steps.common.errors import StepError
from steps.report.compare import RunResult, by_ap, comparison_table, warnings, write_comparison
from steps.report.mlflow import TRACKING_URI, export
from steps.report.reading import read_log, read_object, read_optional
from steps.storage.address import has_scheme
from steps.storage.config import StorageConfig
from steps.storage.store import Storage, open_storage

log = logging.getLogger(__name__)

FILES = ("metrics.json", "train.json", "log.jsonl")
"""What a run is known by, the first for sure."""


def compare_runs(
    places: Sequence[str], page: Path, environ: Mapping[str, str] = os.environ
) -> tuple[list[str], list[list[str]], list[str]]:
    """Compare runs; write a page, and send them to MLflow where `MLFLOW_TRACKING_URI` says where that is.

    Args:
        places: runs and sweeps: folders, addresses such as s3://bucket/prefix, or key prefixes in the bucket.
        page: the HTML file to write.
        environ: the environment.

    Returns:
        Columns and rows of a table, the best run first, and warnings.

    Raises:
        StepError: a place holds no run that was evaluated, or the storage refuses.
    """
    runs = by_ap([run for place in dict.fromkeys(places) for run in find_runs(place)])
    page.parent.mkdir(parents=True, exist_ok=True)
    write_comparison(runs, page)
    if uri := environ.get(TRACKING_URI):
        log.info("%d of the runs were new to MLflow at %s", export(runs, uri), uri)
    return *comparison_table(runs), warnings(runs)


def find_runs(place: str) -> list[RunResult]:
    """Read the runs at a place: that of one, or the folder of a sweep.

    Raises:
        StepError: there are none that were evaluated.
    """
    folder = Path(os.path.expanduser(place))
    if not has_scheme(place) and folder.exists():
        folders = [folder, folder / "output"]
        if not any((each / FILES[0]).is_file() for each in folders):
            inner = sorted(each for each in folder.iterdir() if each.is_dir()) if folder.is_dir() else []
            folders = [*inner, *(each / "output" for each in inner)]
        found = [_read(each, str(each)) for each in folders if (each / FILES[0]).is_file()]
    else:
        found = _download(*open_storage(place, StorageConfig.resolve()))
    if not found:
        raise StepError(f"{place} holds no run that was evaluated: there is no {FILES[0]} in it or in its folders")
    return found


def _download(storage: Storage, prefix: str) -> list[RunResult]:
    prefixes = [prefix]
    if storage.head(f"{prefix}/{FILES[0]}") is None:
        prefixes = [f"{prefix}/{name.rstrip('/')}" for name in storage.children(prefix) if name.endswith("/")]
    runs = []
    with tempfile.TemporaryDirectory(prefix="runs-") as temporary:
        for number, each in enumerate(prefixes):
            if storage.head(f"{each}/{FILES[0]}") is None:
                continue
            folder = Path(temporary) / str(number)
            folder.mkdir()
            objects = [(storage.head(f"{each}/{name}"), folder / name) for name in FILES]
            storage.download([(remote, path) for remote, path in objects if remote], folder / "unfinished")
            runs.append(_read(folder, f"{storage.url}/{each}"))
    return runs


def _read(folder: Path, place: str) -> RunResult:
    metrics = read_object(folder / FILES[0], "evaluate")
    name = str(metrics.get("run") or Path(place.removesuffix("/output")).name)
    return RunResult(name, place, metrics, read_optional(folder / FILES[1]), read_log(folder / FILES[2]))
