"""The page and the table of hyperparameters say what the declarations say."""

from pathlib import Path

import pytest

from steps.hyperparameters import page, show_hyperparameters
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
