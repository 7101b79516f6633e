"""What a sweep consists of, read from the compiled workflow."""

import pytest

from pipelines.errors import PipelineError
from pipelines.manifest.reader import Manifest
from pipelines.manifest.sweep import part, read_sweep, without
from pipelines.workflow.contract import WORKFLOW
from steps.settings import parse_hyperparameters


def test_each_combination_is_a_run_with_its_own_parameters() -> None:
    given = {
        "lr": "1e-4,3e-4",
        "model": "ddq_lite0,detr_resnet50",
        "epochs": "3",
        "hyperparameters": "clip_max_norm: 1",
    }
    sweep = read_sweep(Manifest.load(WORKFLOW), given, {"cvat-annotation-path": "dumps/7/"})
    assert [each.words for each in sweep.combinations] == [
        "lr=1e-4 model=ddq_lite0", "lr=1e-4 model=detr_resnet50", "lr=3e-4 model=ddq_lite0",
        "lr=3e-4 model=detr_resnet50",
    ]  # fmt: skip
    last = dict(sweep.combinations[-1].overrides)
    settings = parse_hyperparameters(last.pop("hyperparameters"))
    assert {name: float(value) for name, value in settings.items()} == {"clip_max_norm": 1.0, "lr": 3e-4}
    assert last == {"model": "detr_resnet50", "epochs": "3", "cvat-annotation-path": "dumps/7/"}
    assert sweep.fixed == {
        "epochs": "3", "hyperparameters": "clip_max_norm: 1", "cvat-annotation-path": "dumps/7/",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"lr": "1e-4"}, "nothing varies"),
        ({"lr": "1e-4,fast"}, "field 'lr' is 'fast'"),
        ({"lrr": "1e-4,3e-4"}, "unknown hyperparameter 'lrr'; did you mean lr"),
        ({"model": "ddq_lite0,detr"}, "parameter 'model' is 'detr'"),
        ({"val-split": "10,20"}, "parameter 'val-split' cannot vary"),
        ({"seed": "1,1"}, "has a value twice"),
        ({"exclude": 'a,"b'}, "is not a list of values"),
        ({"lr": "1e-4,3e-4", "hyperparameters": "x"}, "write one 'name: value' a line"),
    ],
)
def test_what_cannot_be_is_refused(given: dict[str, str], said: str) -> None:
    with pytest.raises(PipelineError, match=said.replace("(", "\\(")):
        read_sweep(Manifest.load(WORKFLOW), given, {})


def test_a_value_with_a_comma_is_quoted() -> None:
    sweep = read_sweep(Manifest.load(WORKFLOW), {"seed": "1,2", "exclude": '"occluded,size=small"'}, {})
    assert {each.overrides["exclude"] for each in sweep.combinations} == {"occluded,size=small"}


def test_steps_that_are_left_out_leave_a_workflow_in_order() -> None:
    manifest = Manifest.load(WORKFLOW)
    kept = part(manifest, {"fetch", "upload"})
    assert [task.name for task in kept.tasks()] == ["fetch-dump", "upload-artifacts"]
    (dag,) = (each["dag"] for each in kept.spec["templates"] if "dag" in each)
    assert [task.get("dependencies") for task in dag["tasks"]] == [None, ["fetch-dump"]]
    assert {each["name"] for each in kept.spec["templates"]} == {"main", "fetch-dump", "upload-artifacts"}
    assert next(task.name for task in without(manifest, {"fetch", "prepare"}).tasks()) == "train-detr"
    assert len(manifest.tasks()) == 5, "the manifest itself stays as it is"
