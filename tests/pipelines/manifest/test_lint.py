"""Each rule of a consumer: the compiled manifest keeps it, and breaking it is noticed."""

import copy
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from typer.testing import CliRunner

from pipelines.cli import MANIFESTS, ONEPANEL_SPEC, WORKFLOW, app
from pipelines.errors import PipelineError
from pipelines.manifest import lint
from pipelines.workflow.dag import Options, Target, training_workflow

PROJECT = Path(__file__).parents[3]
Spec = dict[str, Any]
ONEPANEL: Spec = yaml.safe_load(ONEPANEL_SPEC.read_text())
ARGO: Spec = yaml.safe_load(WORKFLOW.read_text())


def template(spec: Spec, name: str) -> Spec:
    (found,) = (each for each in spec["templates"] if each["name"] == name)
    return found


def parameter(spec: Spec, name: str) -> Spec:
    (found,) = (each for each in spec["arguments"]["parameters"] if each["name"] == name)
    return found


def tasks(spec: Spec) -> list[Spec]:
    found: list[Spec] = template(spec, "main")["dag"]["tasks"]
    return found


def train(spec: Spec) -> Spec:
    return template(spec, "train-detr")


BREAKS: list[tuple[Callable[..., Any], str, Callable[[Spec], object]]] = [
    (lint.fields_of_argo_2_12, "podMetadata", lambda s: s.update(podMetadata={"labels": {}})),
    (lint.fields_of_argo_2_12, "hooks", lambda s: s.update(hooks={})),
    (lint.fields_of_argo_2_12, "expression", lambda s: train(s)["retryStrategy"].update(expression="true")),
    (lint.fields_of_argo_2_12, "plugin", lambda s: train(s).update(plugin={})),
    (lint.fields_of_argo_2_12, "displayName", lambda s: tasks(s)[0].update(displayName="x")),
    (lint.fields_of_argo_2_12, "colour", lambda s: parameter(s, "epochs").update(colour="red")),
    (lint.fields_of_argo_2_12, "restartPolicy", lambda s: train(s)["container"].update(restartPolicy="Always")),
    (lint.fields_of_argo_2_12, "not shaped", lambda s: train(s).update(container="python")),
    (lint.parameters_for_forms, "visibility|'secret'", lambda s: parameter(s, "epochs").update(visibility="secret")),
    (lint.parameters_for_forms, "'epochs' is 'None'", lambda s: parameter(s, "epochs").pop("visibility")),
    (lint.parameters_for_forms, "not 50", lambda s: parameter(s, "epochs").update(value=50)),
    (lint.parameters_for_forms, "not None", lambda s: parameter(s, "epochs").pop("value")),
    (lint.parameters_for_forms, "'input.slider'", lambda s: parameter(s, "epochs").update(type="input.slider")),
    (lint.parameters_for_forms, "none of them", lambda s: parameter(s, "model").update(value="detr")),
    (lint.parameters_for_forms, "none of them", lambda s: parameter(s, "model").pop("options")),
    (lint.dags_at_the_top, "entrypoint", lambda s: s.update(entrypoint="train-detr")),
    (lint.dags_at_the_top, "onExit", lambda s: s.update(onExit="upload-artifacts")),
    (lint.edges_as_dependencies, "'depends'", lambda s: tasks(s)[1].update(depends=tasks(s)[1].pop("dependencies")[0])),
    (lint.one_root_first, "2 root tasks", lambda s: tasks(s)[1].pop("dependencies")),
    (lint.one_root_first, "0 root tasks", lambda s: tasks(s)[0].update(dependencies=["evaluate"])),
    (lint.one_root_first, "first in the list", lambda s: tasks(s).reverse()),
    (
        lint.containers_without_shared_memory,
        "no container",
        lambda s: train(s).update(script=train(s).pop("container")),
    ),
    (
        lint.containers_without_shared_memory,
        "/dev/shm",
        lambda s: train(s)["container"]["volumeMounts"].append({"name": "dshm", "mountPath": "/dev/shm"}),
    ),
    (lint.node_selector_is_the_pool, "train-detr", lambda s: train(s)["nodeSelector"].update(zone="a")),
    (lint.node_selector_is_the_pool, "train-detr", lambda s: train(s).update(nodeSelector={"pool": "p3"})),
    (lint.node_selector_is_the_pool, "evaluate", lambda s: template(s, "evaluate").pop("nodeSelector")),
    (
        lint.names_that_are_cores,
        "sys-epochs",
        lambda s: s["arguments"]["parameters"].append({"name": "sys-epochs", "value": "1"}),
    ),
    (
        lint.names_that_are_cores,
        "sys-metrics",
        lambda s: train(s).update(outputs={"artifacts": [{"name": "sys-metrics", "path": "/tmp/x"}]}),
    ),
    (
        lint.names_that_are_cores,
        "sys-metrics.json",
        lambda s: train(s).update(outputs={"artifacts": [{"name": "mine", "path": "/tmp/sys-metrics.json"}]}),
    ),
    (
        lint.names_that_are_cores,
        "archived",
        lambda s: train(s)["inputs"]["artifacts"][0].update(archive={"tar": {}}),
    ),
    (lint.side_cars_have_ports, "port", lambda s: train(s)["sidecars"][0].pop("ports")),
    (lint.side_cars_have_ports, "ONEPANEL_INTERACTIVE_SIDECAR", lambda s: train(s).pop("sidecars")),
    (lint.storage_is_mounted, "fetch-dump", lambda s: template(s, "fetch-dump")["container"]["volumeMounts"].pop()),
    (
        lint.kubernetes_accepts_the_pods,
        "volume 'x'",
        lambda s: train(s)["container"]["volumeMounts"][0].update(name="x"),
    ),
    (lint.kubernetes_accepts_the_pods, "missing", lambda s: train(s)["container"]["volumeMounts"][0].pop("name")),
    (lint.storage_is_mounted, "upload-artifacts", lambda s: s["volumes"][0]["projected"]["sources"].pop()),
]


def test_the_compiled_manifests_are_accepted() -> None:
    result = CliRunner().invoke(app, ["lint"])
    assert result.exit_code == 0, result.output
    assert result.output.count(": ok") == len(list(MANIFESTS.rglob("*.yaml"))) == 3


@pytest.mark.parametrize("options", [Options(), Options(image="registry/detr:1", gpus=0)])
def test_every_form_for_onepanel_keeps_the_rules(options: Options) -> None:
    spec = copy.deepcopy(training_workflow(Target.ONEPANEL, options).to_dict()["spec"])
    spec["arguments"], _ = ONEPANEL["arguments"], spec.pop("podMetadata")
    assert lint.lint_onepanel(spec) == []


@pytest.mark.parametrize(("rule", "said", "break_it"), BREAKS)
def test_breaking_a_rule_is_noticed(rule: Callable[..., Any], said: str, break_it: Callable[[Spec], object]) -> None:
    spec = copy.deepcopy(ONEPANEL)
    assert list(rule(spec)) == []
    break_it(spec)
    assert any(word in problem for problem in rule(spec) for word in said.split("|"))
    assert lint.lint_onepanel(spec)


def test_every_rule_is_broken_by_a_test() -> None:
    assert {rule for rule, _, _ in BREAKS} == set(lint.ONEPANEL_RULES)


@pytest.mark.parametrize(
    ("said", "break_it"),
    [
        ("spec.when is no field", lambda d: d["spec"].update(when="now")),
        ("nodeSelecter is no field", lambda d: d["spec"]["templates"][2].update(nodeSelecter={})),
        ("used-by", lambda d: d["metadata"]["labels"].clear()),
        ("used-by", lambda d: d["spec"].pop("podMetadata")),
        ("kind is 'Pod'", lambda d: d.update(kind="Pod")),
        ("image", lambda d: d["spec"]["templates"][0]["container"].update(image=7)),
    ],
)
def test_what_argo_would_refuse_is_noticed(said: str, break_it: Callable[[Spec], object]) -> None:
    document = copy.deepcopy(ARGO)
    assert lint.lint_argo(document) == []
    break_it(document)
    assert any(said in problem for problem in lint.lint_argo(document))


def test_problems_are_printed_with_the_file_and_fail(tmp_path: Path) -> None:
    spec = copy.deepcopy(ONEPANEL)
    parameter(spec, "epochs").update(visibility="secret")
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(spec))
    command = [sys.executable, "-m", "pipelines", "lint", str(path)]
    result = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True)
    assert result.returncode == 1
    assert f"{path}: parameter 'epochs' is 'secret'" in result.stderr


@pytest.mark.parametrize("content", [None, "a: ["])
def test_what_cannot_be_read_is_named(content: str | None, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    if content is not None:
        path.write_text(content)
    with pytest.raises(PipelineError, match=r"mine\.yaml"):
        lint.lint(path)


@pytest.mark.parametrize(
    ("version", "kind", "document"),
    [
        ("v2.12.4", "Workflow", {"metadata": {}, "spec": ONEPANEL}),
        ("v4.1.2", "Workflow", ARGO),
        (
            "v4.1.2",
            "WorkflowTemplate",
            yaml.safe_load((WORKFLOW.with_name("detr-training.workflowtemplate.yaml")).read_text()),
        ),
    ],
)
def test_argos_own_schemas_accept_the_manifests(version: str, kind: str, document: Spec) -> None:
    path = PROJECT.parent / "shared" / "argo" / f"argo-{version}.schema.json"
    if not path.is_file():
        pytest.skip(f"Argo's schema {version} is not beside the project")
    document = copy.deepcopy(document)
    for each in document["spec"]["arguments"]["parameters"] if version == "v2.12.4" else []:
        for key in lint.FORM_KEYS:
            each.pop(key, None)
    schema = strict(json.loads(path.read_text()))
    (name,) = (each for each in schema["definitions"] if each.endswith(f"v1alpha1.{kind}"))
    validator = jsonschema.Draft7Validator({"$ref": f"#/definitions/{name}", "definitions": schema["definitions"]})
    assert [f"{list(error.absolute_path)}: {error.message}" for error in validator.iter_errors(document)] == []


def strict(schema: Any) -> Any:
    """Forbid, everywhere, what is not described: that is how core parses."""
    if isinstance(schema, dict):
        if "properties" in schema:
            schema.setdefault("additionalProperties", False)
        for value in schema.values():
            strict(value)
    elif isinstance(schema, list):
        for value in schema:
            strict(value)
    return schema
