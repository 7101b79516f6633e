"""What training would refuse is refused before it, in its words."""

from pathlib import Path
from typing import Any

import pytest

from steps.fetch import fetch_dump
from steps.settings import check_settings
from tests.steps.refusals import refused


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"hyperparameters": "lr_bakbone: 0.1"}, "unknown hyperparameter 'lr_bakbone'; did you mean lr_backbone"),
        ({"hyperparameters": "lr: fast"}, "field 'lr' is 'fast'"),
        ({"hyperparameters": "lr"}, "write one 'name: value' a line"),
        ({"hyperparameters": "lr: ["}, "is not readable YAML"),
        ({"hyperparameters": "lr: 2020-99-99"}, "is not readable YAML (a value is not what it seems: month must be"),
        ({"hyperparameters": "[" * 5000}, "is not readable YAML (it is nested too deeply)"),
        ({"hyperparameters": "model: detr_resnet5"}, "did you mean detr_resnet50"),
        ({"hyperparameters": "nms_iou: 0.5"}, "unknown hyperparameter 'nms_iou'"),
        ({"hyperparameters": "dropout: 0.2", "model": "ddq_lite0"}, "unknown hyperparameter 'dropout'"),
        ({"epochs": 0}, "field 'epochs' is 0"),
        ({"batch_size": 2, "hyperparameters": "accumulate: 4"}, "accumulate 4 is above batch_size 2"),
    ],
)
def test_what_training_would_refuse_is_refused_before_it(settings: dict[str, Any], said: str, tmp_path: Path) -> None:
    with refused(said):
        check_settings(**settings)
    with refused(said):
        fetch_dump(str(tmp_path), tmp_path / "dataset", **settings)
    assert not (tmp_path / "dataset").exists()


def test_while_the_model_is_not_settled_settings_pass_that_suit_one_it_can_be() -> None:
    check_settings(hyperparameters="image_size: 512")
    with refused("unknown hyperparameter 'dropout'"):
        check_settings(hyperparameters="dropout: 0.2")
    check_settings(hyperparameters="denoising_queries: 50")
    check_settings(hyperparameters="nms_iou: 0.5", checkpoint="runs/1/best.pth")
