from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from trainer.config import TrainConfig, config_class, parse
from trainer.errors import TrainerError
from trainer.models.detr.family import DETR

ROOT = Path(__file__).parents[2]
PATHS = {"dataset_dir": "data", "output_dir": "out"}
DETR_PATHS = {**PATHS, "model": "detr_resnet50"}


def test_the_large_models_default_to_the_paper():
    config = TrainConfig.create(model="detr_resnet101_dc5", **PATHS)
    assert (config.lr, config.lr_backbone, config.weight_decay) == (1e-4, 1e-5, 1e-4)
    assert (config.epochs, config.drop_epoch, config.clip_max_norm) == (300, 200, 0.1)
    assert (config.num_queries, config.dropout, config.eos_coef) == (100, 0.1, 0.1)
    assert (config.set_cost_class, config.set_cost_bbox, config.set_cost_giou) == (1, 5, 2)
    assert (config.image_size, config.max_size, config.pretrained) == (800, 1333, "coco")


def test_the_small_model_has_defaults_of_its_own_that_the_user_overrides():
    config = TrainConfig.create({"batch_size": 4, "epochs": None}, model="detr_tiny", **PATHS)
    assert config.pretrained is None
    assert config.image_size == 64
    assert config.batch_size == 4
    assert config.epochs == TrainConfig.create(model="detr_tiny", **PATHS).epochs


def test_hyperparameters_win_over_fields():
    assert TrainConfig.create({"epochs": 7}, epochs=3, **PATHS).epochs == 7


def test_a_random_backbone_learns_as_fast_as_the_rest():
    assert TrainConfig.create({"pretrained": "none", "lr": 3e-4}, **DETR_PATHS).lr_backbone == 3e-4
    assert TrainConfig.create({"lr": 3e-4}, model="detr_tiny", **PATHS).lr_backbone == 3e-4
    assert TrainConfig.create({"lr": 3e-4}, **DETR_PATHS).lr_backbone == 1e-5
    assert TrainConfig.create({"pretrained": "none", "lr_backbone": 0}, **DETR_PATHS).lr_backbone == 0


@pytest.mark.parametrize("word", ["none", "None", "null", "", None])
def test_pretrained_can_be_none_in_words(word):
    assert TrainConfig.create({"pretrained": word}, **PATHS).pretrained is None


def test_drop_epoch_follows_the_epochs_unless_given():
    assert TrainConfig.create(epochs=30, **DETR_PATHS).drop_epoch == 20
    assert TrainConfig.create(epochs=30, lr_drop=5, **DETR_PATHS).drop_epoch == 5
    # Four fifths of two epochs are two of them, which would leave none at the low rate.
    assert TrainConfig.create(epochs=2, lr_drop_at=0.8, **DETR_PATHS).drop_epoch == 1
    assert TrainConfig.create(epochs=1, lr_drop_at=0.8, **DETR_PATHS).drop_epoch == 1


def test_a_configuration_survives_json():
    config = TrainConfig.create({"pretrained": "none"}, model="detr_tiny", **PATHS)
    assert parse(config.model_dump(mode="json")) == config


@pytest.mark.parametrize(
    ("hyperparameters", "words"),
    [
        ({"epocs": 3}, ["'epocs'", "epochs"]),
        ({"num_querys": 3}, ["'num_querys'", "num_queries"]),
        ({"learning_rate_backbone": 3}, ["'learning_rate_backbone'", "lr_backbone"]),
        ({"epochs": 0}, ["'epochs'", "0", "1"]),
        ({"epochs": 2.5}, ["'epochs'", "2.5"]),
        ({"lr": "fast"}, ["'lr'", "'fast'", "number"]),
        ({"lr": -1}, ["'lr'", "-1", "greater than 0"]),
        ({"model": "detr_resnet"}, ["'model'", "'detr_resnet'", "detr_resnet50"]),
        ({"device": "gpu"}, ["'device'", "'gpu'", "cuda"]),
        ({"seed": -1}, ["'seed'", "-1"]),
        ({"lr": float("inf")}, ["lr", "finite number"]),
        ({"ce_loss_coef": float("nan")}, ["ce_loss_coef", "finite number"]),
        ({"workers": 1_000_000}, ["workers", "1000000", "1024"]),
        ({"max_size": 100}, ["max_size 100", "image_size 800"]),
        ({"dataset_dir": "elsewhere"}, ["'dataset_dir'", "remove"]),
    ],
)
def test_a_bad_hyperparameter_gets_one_line_that_names_it(hyperparameters, words):
    with pytest.raises(TrainerError) as caught:
        TrainConfig.create(hyperparameters, **DETR_PATHS)
    line = str(caught.value)
    assert "\n" not in line
    for word in words:
        assert word in line


def test_hyperparameters_that_are_no_mapping_are_refused():
    with pytest.raises(TrainerError, match="mapping"):
        TrainConfig.create(["epochs"], **PATHS)  # type: ignore[arg-type]


def test_the_class_itself_forbids_unknown_fields():
    with pytest.raises(ValidationError):
        config_class()(**PATHS, epocs=3)


def test_configuration_and_errors_need_no_torch():
    code = (
        "import sys, trainer.errors, trainer.config, trainer; trainer.TrainConfig; trainer.TrainerError;"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_a_published_model_is_named_by_a_prefix():
    config = parse({"dataset_dir": "d", "output_dir": "o", "model": "hf:someone/detector"})
    assert (config.pretrained, config.image_size, config.lr_backbone) == ("published", 640, 1e-5)
    with pytest.raises(TrainerError, match=r"or hf:NAME-OR-FOLDER$"):
        parse({"dataset_dir": "d", "output_dir": "o", "model": "hf:"})
    with pytest.raises(TrainerError, match=r"did you mean fasterrcnn_resnet50\?"):
        parse({"dataset_dir": "d", "output_dir": "o", "model": "fasterrcnn_resnet"})


def test_every_model_name_is_built():
    from trainer.models.detr.architectures import ARCHITECTURES

    assert set(ARCHITECTURES) == {*DETR.models, *DETR.retired}
