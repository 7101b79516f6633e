from pathlib import Path

import pytest
import yaml

from pipelines.errors import PipelineError
from pipelines.manifest.reader import Manifest, substitute

SPEC = {
    "entrypoint": "main",
    "arguments": {
        "parameters": [{"name": "epochs", "value": "3"}, {"name": "model", "value": "a", "enum": ["a", "b"]}]
    },
    "templates": [
        {
            "name": "main",
            "dag": {
                "tasks": [
                    {"name": "last", "template": "box", "dependencies": ["left", "right"]},
                    {"name": "right", "template": "box", "dependencies": ["first"]},
                    {"name": "left", "template": "box", "dependencies": ["first"]},
                    {"name": "first", "template": "box"},
                ]
            },
        },
        {"name": "box", "container": {"args": []}},
    ],
}


def written(folder: Path, spec: object) -> Path:
    path = folder / "workflow.yaml"
    path.write_text(yaml.safe_dump(spec))
    return path


def test_tasks_come_after_what_they_depend_on(tmp_path: Path) -> None:
    names = [task.name for task in Manifest.load(written(tmp_path, {"spec": SPEC})).tasks()]
    assert names[0] == "first"
    assert names[-1] == "last"
    assert sorted(names) == ["first", "last", "left", "right"]


def test_a_bare_spec_is_read_like_a_workflow(tmp_path: Path) -> None:
    bare = Manifest.load(written(tmp_path, SPEC))
    assert bare.spec == Manifest.load(written(tmp_path, {"metadata": {"name": "x"}, "spec": SPEC})).spec


def test_overrides_replace_defaults(tmp_path: Path) -> None:
    manifest = Manifest.load(written(tmp_path, SPEC))
    assert manifest.parameters({"epochs": "7"}) == {"epochs": "7", "model": "a"}


@pytest.mark.parametrize(
    ("overrides", "said"),
    [({"epoch": "7"}, "did you mean 'epochs'"), ({"zzz": "7"}, "there are epochs, model"), ({"model": "c"}, "a, b")],
)
def test_wrong_overrides_are_refused(tmp_path: Path, overrides: dict[str, str], said: str) -> None:
    with pytest.raises(PipelineError, match=said):
        Manifest.load(written(tmp_path, SPEC)).parameters(overrides)


@pytest.mark.parametrize(
    ("task", "said"),
    [
        ({"name": "odd", "template": "box", "withItems": [1, 2]}, "'withItems'"),
        ({"name": "odd", "template": "gone"}, "no container template"),
        ({"name": "odd", "template": "box", "dependencies": ["gone"]}, "'gone'"),
        ({"name": "odd", "template": "box", "dependencies": ["odd"]}, "depend on one another"),
    ],
)
def test_a_dag_that_only_argo_can_run_is_refused(tmp_path: Path, task: dict[str, object], said: str) -> None:
    main, box = SPEC["templates"]
    spec = {**SPEC, "templates": [{**main, "dag": {"tasks": [*main["dag"]["tasks"], task]}}, box]}
    with pytest.raises(PipelineError, match=said):
        Manifest.load(written(tmp_path, spec)).tasks()


SPECS = ["entrypoint: a\ntemplates: 5", "entrypoint: a\ntemplates: [b]", "entrypoint: a\ntemplates: []\narguments: 1"]


@pytest.mark.parametrize("content", ["", "[]", "a: [", "a: 1", "[" * 5000, "a: 2020-99-99", *SPECS])
def test_what_is_no_workflow_is_refused_by_name(tmp_path: Path, content: str) -> None:
    path = tmp_path / "odd.yaml"
    path.write_text(content)
    with pytest.raises(PipelineError, match=r"odd\.yaml"):
        Manifest.load(path)


@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="this system has no /dev/zero")
def test_a_device_is_not_read_without_end() -> None:
    with pytest.raises(PipelineError, match="/dev/zero is larger than any manifest"):
        Manifest.load(Path("/dev/zero"))


def test_a_missing_manifest_says_what_makes_it(tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match="make compile"):
        Manifest.load(tmp_path / "none.yaml")


def test_substitution_happens_once() -> None:
    values = {"workflow.name": "n", "workflow.parameters.text": "{{workflow.name}} $(rm) `x`"}
    replaced = substitute("{{workflow.parameters.text}}/{{ workflow.name }}", values)
    assert replaced == "{{workflow.name}} $(rm) `x`/n"


def test_a_name_without_value_is_refused() -> None:
    with pytest.raises(PipelineError, match=r"tasks\.a\.outputs"):
        substitute("{{tasks.a.outputs.result}}", {})
