"""The page and the table of hyperparameters say what the declarations say."""

from pathlib import Path
from typing import Any

import pytest

from steps.fetch import fetch_dump
from steps.hyperparameters import check_settings, page, show_hyperparameters
from tests.steps.refusals import refused
from trainer.config import TrainConfig, config_class
from trainer.hyperparameters import hyperparameters, own_defaults
from trainer.models.registry import model_names

PROJECT = Path(__file__).parents[2]


def test_the_page_is_the_one_that_the_declarations_give() -> None:
    assert (PROJECT / "docs" / "hyperparameters.md").read_text(encoding="utf-8") == page(), "run `make docs`"


@pytest.mark.parametrize("model", model_names())
def test_each_setting_has_a_meaning_and_its_default_is_accepted(model: str) -> None:
    rows = hyperparameters(model)
    assert {row.name for row in rows} == set(config_class(model).model_fields) - {
        "dataset_dir", "output_dir", "images_root", "model", "model_reason",
    }  # fmt: skip
    assert all(row.meaning for row in rows)
    written = {row.name: row.default for row in rows if row.default != "none"}
    TrainConfig.create(written, model=model, dataset_dir=Path(), output_dir=Path())
    for name, value in own_defaults()[model].items():
        assert next(row.default for row in rows if row.name == name) == value


def test_the_table_of_one_model_names_its_settings(capsys: pytest.CaptureFixture[str]) -> None:
    show_hyperparameters("detr_resnet50")
    shown = capsys.readouterr().out
    assert "detr_resnet50" in shown
    assert "num_queries" in shown


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
