"""A sweep: the same workflow with several values of some parameters, on data that is fetched and prepared once.

One workflow makes the data, one for each combination of values trains on it. Each has volumes of its own, so that
the runs can be on as many nodes as there are whatever the storage, and each is stopped, retried and reported alone.
"""

import copy
import csv
import itertools
import json
import random
import string
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import yaml

from pipelines.errors import PipelineError
from pipelines.manifest.reader import Manifest
from pipelines.workflow.contract import DATA, OUTPUT, STEPS_COMMAND, VOLUMES
from pipelines.workflow.parameters import HYPERPARAMETERS
from steps.common.errors import StepError
from steps.common.files import parse_yaml
from steps.settings import parse_hyperparameters


@dataclass(frozen=True)
class Combination:
    """One run of a sweep."""

    number: int
    """From 1."""
    varied: Mapping[str, str]
    """What makes it different from the others."""
    overrides: Mapping[str, str]
    """All of its workflow parameters that are not the manifest's."""

    @property
    def words(self) -> str:
        """The combination in one line."""
        return " ".join(f"{name}={value}" for name, value in self.varied.items())


@dataclass(frozen=True)
class Sweep:
    """What a sweep consists of."""

    fixed: Mapping[str, str]
    """Workflow parameters that all have, the workflow that makes the data too."""
    combinations: Sequence[Combination]


def new_name(manifest: Manifest) -> str:
    """Make the name of a new sweep."""
    stem = str(manifest.metadata.get("generateName") or f"{manifest.metadata.get('name', 'workflow')}-")
    return f"{stem}sweep-{''.join(random.choices(string.ascii_lowercase + string.digits, k=5))}"


def read_sweep(manifest: Manifest, given: Mapping[str, str], required: Mapping[str, str]) -> Sweep:
    """Work out the combinations, and check each as `submit` would.

    Args:
        manifest: the compiled workflow.
        given: values by name, several with commas between them (one that holds a comma in double quotes). A name that
            is no workflow parameter is a hyperparameter. `hyperparameters` is not split: all runs have it.
        required: workflow parameters that all runs have as they are.

    Raises:
        PipelineError: nothing varies, a name or a value is wrong, or what varies would change the data.
    """
    known = {each["name"] for each in manifest.spec.get("arguments", {}).get("parameters", [])}
    choices = {
        name: [value] if name == HYPERPARAMETERS.name else _split(name, value)
        for name, value in given.items()
        if name not in required
    }
    varied = {name for name, values in choices.items() if len(values) > 1}
    if not varied:
        raise PipelineError("nothing varies: give a parameter several values, such as --param lr=1e-4,3e-4")
    for_data = _parameters_of(part(manifest, {"prepare"})) - _parameters_of(part(manifest, {"train"}))
    if fixed_for_all := sorted(varied & for_data):
        raise PipelineError(
            f"parameter '{fixed_for_all[0]}' cannot vary in a sweep, which makes its data once: give it one value"
        )
    base = parse(choices.get(HYPERPARAMETERS.name, [""])[0])
    combinations = []
    for number, values in enumerate(itertools.product(*choices.values()), start=1):
        chosen = dict(zip(choices, values, strict=True))
        extra = {name: _setting(name, value) for name, value in chosen.items() if name not in known}
        overrides = {**{name: value for name, value in chosen.items() if name in known}, **required}
        if extra:
            overrides[HYPERPARAMETERS.name] = yaml.safe_dump({**base, **extra}, sort_keys=False)
        manifest.check(overrides)
        shown = {name: value for name, value in chosen.items() if name in varied}
        combinations.append(Combination(number, shown, overrides))
    fixed = {name: values[0] for name, values in choices.items() if name in known and name not in varied}
    return Sweep({**fixed, **required}, combinations)


def parse(hyperparameters: str) -> dict[str, Any]:
    """Read hyperparameters that all runs have."""
    try:
        return parse_hyperparameters(hyperparameters)
    except StepError as error:
        raise PipelineError(str(error).removeprefix("--")) from None


def _split(name: str, value: str) -> list[str]:
    try:
        (values,) = csv.reader([value], strict=True)
    except (csv.Error, ValueError):
        raise PipelineError(f"--param {name}={value} is not a list of values: write {name}=VALUE,VALUE") from None
    values = [each.strip() for each in values]
    if len(set(values)) < len(values):
        raise PipelineError(f"--param {name}={value} has a value twice")
    return values


def part(manifest: Manifest, steps: Collection[str]) -> Manifest:
    """Return a workflow of some of the steps, by their names on the command line; others are left out of the DAG."""
    spec = copy.deepcopy(dict(manifest.spec))
    tasks = {task.name: task.template for task in manifest.tasks()}
    kept = {name for name, template in tasks.items() if step_of(template) in steps}
    (dag,) = (each["dag"] for each in spec["templates"] if each["name"] == spec["entrypoint"])
    before = {task["name"]: task.get("dependencies", []) for task in dag["tasks"]}

    def nearest(name: str) -> list[str]:
        found = itertools.chain.from_iterable([each] if each in kept else nearest(each) for each in before[name])
        return list(dict.fromkeys(found))

    dag["tasks"] = [task for task in dag["tasks"] if task["name"] in kept]
    for task in dag["tasks"]:
        dependencies = nearest(task["name"])
        task.pop("dependencies", None)
        if dependencies:
            task["dependencies"] = dependencies
    dropped = {template["name"] for name, template in tasks.items() if name not in kept}
    dropped -= {task["template"] for task in dag["tasks"]}
    spec["templates"] = [template for template in spec["templates"] if template["name"] not in dropped]
    return replace(manifest, spec=spec)


def without(manifest: Manifest, steps: Collection[str]) -> Manifest:
    """Return a workflow without some of the steps, by their names on the command line."""
    return part(manifest, {step_of(task.template) for task in manifest.tasks()} - set(steps))


def data_workflow(manifest: Manifest) -> Manifest:
    """Return the workflow that fetches and prepares the data, and puts them into the bucket instead of a model."""
    found = part(manifest, {"fetch", "prepare", "upload"})
    spec = dict(found.spec)
    spec["templates"] = [_uploads_data(each) if step_of(each) == "upload" else each for each in found.spec["templates"]]
    mounted = {
        mount["name"]
        for template in spec["templates"]
        for mount in (template.get("container") or {}).get("volumeMounts") or []
    }
    claims = spec.get("volumeClaimTemplates") or []
    spec["volumeClaimTemplates"] = [claim for claim in claims if claim["metadata"]["name"] in mounted]
    return replace(found, spec=spec)


def _uploads_data(template: Mapping[str, Any]) -> dict[str, Any]:
    volumes = {path: name for name, path in VOLUMES.items()}
    changed: dict[str, Any] = json.loads(json.dumps(template))
    container = changed["container"]
    container["args"] = [DATA if word == OUTPUT else word for word in container["args"]]
    for mount in container["volumeMounts"]:
        if mount["name"] == volumes[OUTPUT]:
            mount.update(name=volumes[DATA], mountPath=DATA)
    return changed


def step_of(template: Mapping[str, Any]) -> str:
    """Return the name of the step that a template runs; empty for one that runs none."""
    args = (template.get("container") or {}).get("args") or []
    return str(args[len(STEPS_COMMAND)]) if args[: len(STEPS_COMMAND)] == STEPS_COMMAND else ""


def _parameters_of(manifest: Manifest) -> set[str]:
    text = json.dumps([task.template for task in manifest.tasks()])
    declared = {each["name"] for each in manifest.spec.get("arguments", {}).get("parameters", [])}
    return {name for name in declared if f"{{{{workflow.parameters.{name}}}}}" in text}


def _setting(name: str, value: str) -> Any:
    try:
        return parse_yaml(value)
    except ValueError as error:
        raise PipelineError(f"--param {name}={value} is not readable YAML: {error}") from None
