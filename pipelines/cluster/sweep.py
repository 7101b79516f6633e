"""A sweep on a cluster: a workflow that makes the data, and one for each combination."""

import time
from collections.abc import Mapping
from dataclasses import dataclass

from pipelines.cluster.nodes import phase_of
from pipelines.cluster.protocol import Cluster, Document
from pipelines.cluster.submit import build_workflow, send, until_answered
from pipelines.errors import PipelineError
from pipelines.manifest.reader import Manifest
from pipelines.manifest.sweep import Combination, data_workflow, new_name, read_sweep, without
from pipelines.workflow.contract import SWEEP_LABEL
from pipelines.workflow.parameters import ANNOTATION_PATH, OUTPUT_PATH

COMBINATION = "cvat-detr/combination"
"""Annotation that says what a run of a sweep has of its own."""
SECONDS_TO_BEGIN = 120


@dataclass(frozen=True)
class Submitted:
    """What was sent."""

    name: str
    runs: Mapping[str, str]
    """What each run has of its own, by its workflow's name."""
    folder: str
    """Key prefix in the bucket under which all of it comes to lie."""


def sweep_workflows(
    manifest: Manifest, given: Mapping[str, str], name: str, namespace: str, at_once: int
) -> list[Document]:
    """Make the workflows of a sweep, that of the data first.

    The runs hold `at_once` mutexes in turn, which needs nothing installed beforehand as a semaphore would (from Argo
    3.6 on). The data's workflow holds all of them, so that the runs, whenever they are sent, begin when it ends.

    Raises:
        PipelineError: a parameter is missing, wrong, or cannot vary.
    """
    if at_once < 1:
        raise PipelineError(f"--at-once is {at_once}: give a whole number from 1")
    # Complains about what `submit` complains about, the dump above all, before the sweep is laid out.
    paths = {key: value for key, value in given.items() if key in (ANNOTATION_PATH.name, OUTPUT_PATH.name)}
    build_workflow(manifest, paths)
    place = manifest.parameters(paths)[OUTPUT_PATH.name].strip("/")
    sweep = read_sweep(manifest, given, {**paths, OUTPUT_PATH.name: f"{place}/{name}"})
    slots = [f"{name}-{slot}" for slot in range(min(at_once, len(sweep.combinations)))]
    data = build_workflow(data_workflow(manifest), sweep.fixed)
    _mark(data, name, f"{name}-data", slots)
    trained_on = {ANNOTATION_PATH.name: f"{namespace}/{place}/{name}/{name}-data"}
    training = without(manifest, {"prepare", "remember"})
    workflows = [data]
    for each in sweep.combinations:
        workflow = build_workflow(training, {**each.overrides, **trained_on})
        _mark(workflow, name, f"{name}-{each.number}", [slots[each.number % len(slots)]], each)
        workflows.append(workflow)
    return workflows


def _mark(workflow: Document, sweep: str, name: str, mutexes: list[str], run: Combination | None = None) -> None:
    metadata, spec = workflow["metadata"], workflow["spec"]
    metadata.pop("generateName", None)
    metadata["name"] = name
    metadata["labels"] = {**metadata.get("labels", {}), SWEEP_LABEL: sweep}
    if run:
        metadata["annotations"] = {**metadata.get("annotations", {}), COMBINATION: run.words}
    locks = spec.setdefault("synchronization", {})
    locks["mutexes"] = [*locks.get("mutexes", []), *({"name": each} for each in mutexes)]


def submit_sweep(cluster: Cluster, manifest: Manifest, given: Mapping[str, str], at_once: int) -> Submitted:
    """Send the workflows of a sweep; nothing is sent unless all of them can be.

    Raises:
        PipelineError: a parameter is wrong, the cluster refuses, or it does not begin with the first workflow.
    """
    name = new_name(manifest)
    data, *runs = sweep_workflows(manifest, given, name, cluster.namespace, at_once)
    send(cluster, data)
    # Until it holds the mutexes, a run that is sent could begin before it.
    deadline = time.monotonic() + SECONDS_TO_BEGIN
    while phase_of(now := until_answered(lambda: cluster.get(f"{name}-data"))) == "Pending":
        if time.monotonic() > deadline:
            why = now.get("status", {}).get("message") or "no controller has taken it up"
            raise PipelineError(
                f"{name}-data has not begun after {SECONDS_TO_BEGIN} s ({why}), the runs were not submitted: "
                f"`cvat-detr stop {name}`, and try again"
            )
        time.sleep(1)
    for run in runs:
        send(cluster, run)
    values = {each["name"]: each.get("value") for each in data["spec"]["arguments"]["parameters"]}
    own = {str(run["metadata"]["name"]): str(run["metadata"]["annotations"][COMBINATION]) for run in runs}
    return Submitted(name, own, f"{cluster.namespace}/{values[OUTPUT_PATH.name]}")
