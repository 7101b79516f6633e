"""Runs as MLflow shows them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from steps.common.errors import StepError
from steps.report.compare import RunResult
from steps.report.reading import number, within

TRACKING_URI = "MLFLOW_TRACKING_URI"
EXPERIMENT = "cvat-detr"
"""Unless MLFLOW_EXPERIMENT_NAME names another."""
PLACE = "cvat_detr.place"
"""Tag with where the run lies, by which one that was sent before is known."""


def export(runs: Sequence[RunResult], uri: str) -> int:
    """Send runs to an MLflow server: settings as parameters, curves and COCO's numbers as metrics.

    Args:
        runs: those that are there already, by place and time of evaluation, are left alone.
        uri: of the server.

    Returns:
        How many were new.

    Raises:
        StepError: MLflow is not installed, or the server refuses.
    """
    try:
        from mlflow import MlflowClient
        from mlflow.environment_variables import MLFLOW_EXPERIMENT_NAME
        from mlflow.exceptions import MlflowException
    except ImportError:
        raise StepError(
            f"{TRACKING_URI} is set, and MLflow is not installed: pip install 'cvat-detr[mlflow]', or unset it"
        ) from None
    try:
        client = MlflowClient(uri)
        name = MLFLOW_EXPERIMENT_NAME.get() or EXPERIMENT
        found = client.get_experiment_by_name(name)
        experiment = found.experiment_id if found else client.create_experiment(name)
        new = [run for run in runs if not _is_there(client, experiment, run)]
        for run in new:
            _send(client, experiment, run)
    except MlflowException as error:
        raise StepError(f"MLflow at {uri} refuses: {' '.join(str(error).split())[:300]}") from None
    return len(new)


def _tags(run: RunResult) -> dict[str, str]:
    about = {"evaluated": run.metrics.get("evaluated"), "commit": run.metrics.get("commit")}
    return {
        PLACE: run.place.replace("'", ""),
        **{f"cvat_detr.{key}": str(value) for key, value in about.items() if value},
    }


def _is_there(client: Any, experiment: str, run: RunResult) -> bool:
    wanted = _tags(run)
    # One that was cut off while it was sent is not finished, and sent again.
    found = client.search_runs([experiment], f"attributes.status = 'FINISHED' and tags.`{PLACE}` = '{wanted[PLACE]}'")
    return any(wanted.items() <= each.data.tags.items() for each in found)


def _send(client: Any, experiment: str, run: RunResult) -> None:
    from mlflow.entities import Metric, Param

    sent = client.create_run(experiment, run_name=run.name, tags=_tags(run))
    metrics: list[tuple[str, object, int]] = [(key, value, 0) for key, value in run.metrics.items()]
    for name, scores in (run.metrics.get("per_class") or {}).items():
        metrics.append((f"class_AP/{_key(name)}", within(scores, "AP"), 0))
    for record in run.log:
        epoch = int(number(record.get("epoch")) or 0)
        for part in ("train", "val"):
            figures = record.get(part)
            for key, value in figures.items() if isinstance(figures, dict) else ():
                metrics.append((f"{part}/{_key(key)}", value, epoch))
    stamp = int(sent.info.start_time)
    numbers = [Metric(key, found, stamp, step) for key, value, step in metrics if (found := number(value)) is not None]
    params = [Param(key, value[:6000]) for key, value in run.settings.items()]
    # As many as the server takes in one request.
    for start in range(0, max(len(numbers), 1), 1000):
        client.log_batch(sent.info.run_id, metrics=numbers[start : start + 1000])
    for start in range(0, len(params), 100):
        client.log_batch(sent.info.run_id, params=params[start : start + 100])
    client.set_terminated(sent.info.run_id)


def _key(text: str) -> str:
    # What names of metrics may hold on every server.
    return "".join(letter if letter.isalnum() or letter in "_-. /" else "_" for letter in text)
