"""Checking manifests as their consumers will."""

import copy
import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from pipelines.cli import MANIFESTS, ONEPANEL_SPEC, WORKFLOW
from pipelines.errors import PipelineError
from pipelines.manifest.lint import lint
from pipelines.manifest.onepanel_rules import FORM_KEYS
from tests.pipelines.command import pipelines

PROJECT = Path(__file__).parents[3]
Spec = dict[str, Any]
ONEPANEL: Spec = yaml.safe_load(ONEPANEL_SPEC.read_text())
ARGO: Spec = yaml.safe_load(WORKFLOW.read_text())


def test_the_compiled_manifests_are_accepted() -> None:
    result = pipelines("lint", "--restricted")
    assert result.returncode == 0, result.stderr
    assert result.stdout.count(": ok") == len(list(MANIFESTS.glob("*/*.yaml"))) == 4


def test_problems_are_printed_with_the_file_and_fail(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(ONEPANEL_SPEC.read_text().replace("visibility: internal", "visibility: secret", 1))
    result = pipelines("lint", path)
    assert result.returncode == 1
    assert f"{path}: 1 problem\n" in result.stdout
    assert f"{path}: parameter 'cvat-annotation-path' has the visibility 'secret'" in result.stderr


def test_what_is_not_a_mapping_is_said(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("- a\n")
    assert f"{path}: expected a YAML mapping" in pipelines("lint", path).stderr


@pytest.mark.parametrize("content", [None, "a: ["])
def test_what_cannot_be_read_is_named(content: str | None, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    if content is not None:
        path.write_text(content)
    with pytest.raises(PipelineError, match=r"mine\.yaml"):
        lint(path)


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
        for key in FORM_KEYS:
            each.pop(key, None)
    schema = strict(json.loads(path.read_text()))
    # What its name says; the schema's generator knows only the half of it.
    schema["definitions"]["io.k8s.apimachinery.pkg.util.intstr.IntOrString"] = {"type": ["integer", "string"]}
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
