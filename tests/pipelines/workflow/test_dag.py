"""The definition of the workflow: what its boxes run, for each consumer."""

import inspect
from typing import Any

import pytest

from pipelines.manifest.reader import substitute
from pipelines.workflow.dag import training_workflow
from pipelines.workflow.options import Options, Target
from pipelines.workflow.parameters import CHECKPOINT, PARAMETERS
from steps.cli import STEPS, parse

BOXES = ["fetch-dump", "prepare-data", "train-detr", "evaluate", "upload-artifacts"]
EVERY_FORM = [
    (Target.ARGO, Options()),
    (Target.ONEPANEL, Options()),
    (
        Target.ARGO,
        Options(image="registry/detr:1", gpus=0, node_pool="pool", bucket="b", endpoint="http://s3", secret=""),
    ),
    (Target.ONEPANEL, Options(image="registry/detr:1", node_selector="beta.kubernetes.io/instance-type")),
]


def spec_of(target: Target, options: Options) -> dict[str, Any]:
    return training_workflow(target, options).to_dict()["spec"]


def containers(spec: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {each["name"]: each["container"] for each in spec["templates"] if "container" in each}


@pytest.mark.parametrize(("target", "options"), EVERY_FORM)
def test_every_containers_arguments_are_ones_that_its_step_takes(target: Target, options: Options) -> None:
    spec = spec_of(target, options)
    values = {f"workflow.parameters.{each['name']}": each["value"] for each in spec["arguments"]["parameters"]}
    values |= {"workflow.name": "detr-training-abcde", "workflow.namespace": "team"}
    boxes = containers(spec)
    assert list(boxes) == BOXES
    for container in boxes.values():
        assert container["args"][:3] == ["python", "-m", "steps"]
        parse([substitute(argument, values) for argument in container["args"][3:]])


@pytest.mark.parametrize(("target", "options"), EVERY_FORM)
def test_no_parameter_is_read_by_a_shell(target: Target, options: Options) -> None:
    for container in containers(spec_of(target, options)).values():
        assert not any("{{" in word for word in container["command"])


@pytest.mark.parametrize(("target", "options"), EVERY_FORM)
def test_the_boxes_stand_in_a_row(target: Target, options: Options) -> None:
    spec = spec_of(target, options)
    dag = next(each["dag"] for each in spec["templates"] if each["name"] == spec["entrypoint"])
    assert [task["name"] for task in dag["tasks"]] == BOXES
    assert [task.get("dependencies", []) for task in dag["tasks"]] == [[], *([name] for name in BOXES[:-1])]


@pytest.mark.parametrize("target", list(Target))
def test_a_sixth_box_annotates_a_task_where_it_is_asked_for(target: Target) -> None:
    spec = spec_of(target, Options(annotate=True))
    boxes = containers(spec)
    assert list(boxes) == [*BOXES, "annotate"]
    dag = next(each["dag"] for each in spec["templates"] if each["name"] == spec["entrypoint"])
    assert dag["tasks"][-1] == {"name": "annotate", "template": "annotate", "dependencies": BOXES[-1:]}
    # It names no task unless somebody does, and then does nothing.
    (named,) = (each["value"] for each in spec["arguments"]["parameters"] if each["name"] == "cvat-annotate")
    words = [substitute(word, {"workflow.parameters.cvat-annotate": named}) for word in boxes["annotate"]["args"][3:]]
    assert parse(words)[1]["to"] == ""
    if target is Target.ARGO:
        assert boxes["annotate"]["envFrom"] == boxes["fetch-dump"]["envFrom"]


def test_a_parameter_reaches_the_step_that_it_names() -> None:
    values = {f"workflow.parameters.{each.name}": each.value for each in PARAMETERS}
    values |= {
        "workflow.name": "run",
        "workflow.namespace": "team",
        "workflow.parameters.epochs": "7",
        "workflow.parameters.hyperparameters": "lr: 0.1\nclip_max_norm: 0.2",
        "workflow.parameters.cvat-output-path": "models/cells",
    }
    arguments = {}
    for name, container in containers(spec_of(Target.ARGO, Options())).items():
        arguments[name] = parse([substitute(word, values) for word in container["args"][3:]])[1]
    assert arguments["train-detr"]["epochs"] == 7
    assert arguments["train-detr"]["hyperparameters"] == "lr: 0.1\nclip_max_norm: 0.2"
    assert arguments["upload-artifacts"]["output_path"] == "team/models/cells/run"


def test_defaults_are_those_of_the_steps() -> None:
    declared = {each.name: each.value for each in PARAMETERS}
    train = inspect.signature(STEPS["train"]).parameters
    assert declared["epochs"] == "auto"
    assert train["epochs"].default is None
    assert declared["model"] == train["model"].default
    assert declared["val-split"] == str(inspect.signature(STEPS["prepare"]).parameters["val_split"].default)


def test_the_form_offers_no_checkpoint_that_cvat_answers_with_404() -> None:
    hint = CHECKPOINT.hint
    assert hint.startswith("Key prefix")
    assert not any(word in hint for word in ("address", "file", "://"))


def test_cvats_own_tag_for_its_xml_is_offered() -> None:
    (hint,) = (each.hint for each in PARAMETERS if each.name == "dump-format")
    assert " cvat," in hint
    assert "cvat_images" not in hint


def test_an_argument_that_no_step_takes_does_not_compile(monkeypatch: pytest.MonkeyPatch) -> None:
    def prepare_data(dataset_dir: str, val_split: int, seed: int) -> None: ...

    monkeypatch.setitem(STEPS, "prepare", prepare_data)
    with pytest.raises(TypeError, match="dump_format"):
        training_workflow(Target.ARGO, Options())
