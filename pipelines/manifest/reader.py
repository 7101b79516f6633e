"""Read a compiled workflow back: its parameters, its DAG, its containers."""

import difflib
import inspect
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any, NamedTuple

from pipelines.errors import PipelineError
from pipelines.workflow.compile import manifests
from pipelines.workflow.contract import MANIFESTS, STEPS_COMMAND
from pipelines.workflow.options import Options
from steps.cli import parse
from steps.common.errors import StepError
from steps.common.files import parse_yaml
from steps.settings import check_settings

LARGEST = 10_000_000
"""Characters of a manifest, of which etcd takes a seventh: who reads a device reads without end."""
TASK_KEYS = {"name", "template", "dependencies", "when"}
"""Keys of a task that can be run here: anything else changes what Argo would do."""


class DagTask(NamedTuple):
    """A task of a DAG."""

    name: str
    template: Mapping[str, Any]
    when: str
    """Condition under which it runs, in Argo's words; empty for always."""


@dataclass(frozen=True)
class Manifest:
    """A workflow, a workflow template, or the bare spec that Onepanel takes."""

    path: Path
    metadata: Mapping[str, Any]
    spec: Mapping[str, Any]

    @classmethod
    def load(cls, path: Path) -> "Manifest":
        """Read a manifest.

        Raises:
            PipelineError: the file is not there, not YAML, or not a workflow.
        """
        document = read_yaml(path)
        if not isinstance(document, dict):
            raise PipelineError(f"{path} is not a workflow: run `make compile`")
        spec = document.get("spec", document)
        if isinstance(spec, dict):
            spec = spec.get("workflowSpec", spec)  # Of a CronWorkflow.
        if not isinstance(spec, dict) or not {"entrypoint", "templates"} <= spec.keys():
            raise PipelineError(f"{path} is not a workflow: it has no 'entrypoint' or no 'templates'")
        arguments = spec.get("arguments", {})
        parameters = arguments.get("parameters", []) if isinstance(arguments, dict) else None
        for name, listed in (("templates", spec["templates"]), ("parameters", parameters)):
            if not isinstance(listed, list) or not all(isinstance(each, dict) and "name" in each for each in listed):
                raise PipelineError(f"{path} is not a workflow: its '{name}' are no list of what has names")
        return cls(path, document.get("metadata") or {}, spec)

    @property
    def namespace(self) -> str:
        """The namespace that the manifest is for."""
        return str(self.metadata.get("namespace", "default"))

    def parameters(self, overrides: Mapping[str, str]) -> dict[str, str]:
        """Return the parameters' values, with `overrides` in place of the defaults; one with neither is left out.

        Raises:
            PipelineError: an override names no parameter, or a value that its options do not have.
        """
        declared = {each["name"]: each for each in self.spec.get("arguments", {}).get("parameters", [])}
        for name, value in overrides.items():
            if name not in declared:
                close = difflib.get_close_matches(name, declared, n=1)
                hint = f"did you mean '{close[0]}'?" if close else f"there are {', '.join(declared)}"
                raise PipelineError(f"there is no parameter '{name}': {hint}")
            options = declared[name].get("enum")
            if options and value not in options:
                raise PipelineError(f"parameter '{name}' is '{value}': expected one of {', '.join(options)}")
        defaults = {name: each["value"] for name, each in declared.items() if "value" in each}
        return {**defaults, **overrides}

    def tasks(self) -> list[DagTask]:
        """Return the DAG's tasks in an order that its dependencies allow, each with its template.

        Raises:
            PipelineError: the DAG uses what is not run here, or has a cycle or an unknown task.
        """
        templates = {template["name"]: template for template in self.spec["templates"]}
        entry = templates.get(self.spec["entrypoint"], {})
        if "dag" not in entry:
            raise PipelineError(f"{self.path}: the entrypoint '{self.spec['entrypoint']}' is not a DAG")
        tasks = {task["name"]: task for task in entry["dag"]["tasks"]}
        for task in tasks.values():
            if more := task.keys() - TASK_KEYS:
                raise PipelineError(f"{self.path}: task '{task['name']}' has '{min(more)}', which only Argo supports")
            if "container" not in templates.get(task["template"], {}):
                raise PipelineError(f"{self.path}: task '{task['name']}' has no container template")
        graph = {name: task.get("dependencies", []) for name, task in tasks.items()}
        try:
            order = list(TopologicalSorter(graph).static_order())
        except CycleError as error:
            raise PipelineError(f"{self.path}: the tasks {', '.join(error.args[1])} depend on one another") from None
        if unknown := set(order) - tasks.keys():
            raise PipelineError(f"{self.path}: a task depends on '{min(unknown)}', which does not exist")
        return [DagTask(name, templates[tasks[name]["template"]], tasks[name].get("when", "")) for name in order]

    def check(self, overrides: Mapping[str, str]) -> None:
        """Refuse parameter values that the workflow's steps would refuse when they run.

        Raises:
            PipelineError: a parameter is unknown, or a step does not take its value.
        """
        values = {f"workflow.parameters.{name}": value for name, value in self.parameters(overrides).items()}
        for template in self.spec["templates"]:
            written = template.get("container", {}).get("args", [])
            if written[:3] == STEPS_COMMAND:
                # What only the cluster knows, such as the workflow's name, is left as it is.
                self._check(template["name"], written, [substitute(word, values, strict=False) for word in written])

    @staticmethod
    def _check(name: str, written: Sequence[str], arguments: Sequence[str]) -> None:
        try:
            _, parsed = parse(arguments[len(STEPS_COMMAND) :])
        except StepError as error:
            for position, flag in enumerate(written[:-1]):
                reference = written[position + 1]
                if f"'{flag}'" in str(error) and reference.startswith("{{workflow.parameters."):
                    parameter = reference.strip("{}").removeprefix("workflow.parameters.")
                    value = arguments[position + 1]
                    reason = str(error).partition(": ")[2].removeprefix(f"it is '{value}': ")
                    raise PipelineError(f"parameter '{parameter}' is '{value}': {reason}") from None
            raise PipelineError(f"{name}: {error}") from None
        settings = inspect.signature(check_settings).parameters
        if "hyperparameters" in parsed:
            try:
                check_settings(**{each: parsed[each] for each in settings})
            except StepError as error:
                raise PipelineError(str(error).removeprefix("--")) from None


def read_yaml(path: Path) -> Any:
    """Read a manifest's file as YAML.

    Raises:
        PipelineError: the file is not there or not YAML.
    """
    try:
        return parse_yaml(read_text(path))
    except ValueError as error:
        raise PipelineError(f"{path} is not readable YAML: {error}") from None


def read_text(path: Path) -> str:
    """Read a manifest's file; the project's own is compiled where the project was installed without it.

    Raises:
        PipelineError: the file is not there.
    """
    if path.is_relative_to(MANIFESTS) and not MANIFESTS.is_dir():
        compiled = manifests(Options())
        if path.relative_to(MANIFESTS) in compiled:
            return compiled[path.relative_to(MANIFESTS)]
    try:
        with path.open(encoding="utf-8") as file:
            text = file.read(LARGEST + 1)
    except OSError as error:
        raise PipelineError(f"{path} cannot be read ({error.strerror}): run `make compile`") from None
    if len(text) > LARGEST:
        raise PipelineError(f"{path} is larger than any manifest: run `make compile`")
    return text


def substitute(text: str, values: Mapping[str, str], *, strict: bool = True) -> str:
    """Replace each `{{name}}` once, as Argo does; when not `strict`, leave those without a value.

    Raises:
        PipelineError: a name has no value.
    """

    def value(match: "re.Match[str]") -> str:
        name = match[1].strip()
        if name not in values:
            if not strict:
                return match[0]
            raise PipelineError(f"{match[0]} has no value here: only Argo can run this manifest")
        return values[name]

    return re.sub(r"\{\{(.*?)\}\}", value, text)
