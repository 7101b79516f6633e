"""The detectors of transformers as a family."""

from __future__ import annotations

from trainer.models.choice import NANO
from trainer.models.family import Family, ModelInfo

PREFIX = "hf:"
"""How the names of these models begin."""

# The rates are those that D-FINE's and RT-DETR's authors fine-tune with, for 16 images a step. Steps are reckoned from
# weights that know COCO ("checkpoint" stands for the published ones too): what is new is the class head.
_INFO = ModelInfo(
    {
        "pretrained": "published",
        "epochs": 50,
        "batch_size": 4,
        "lr": 1e-4,
        "lr_backbone": 1e-5,
        "lr_drop_at": 0.8,
        "image_size": 640,
        "max_size": 640,
        "augment": "light",
    },
    {"coco": 1_500, "imagenet": 20_000, "checkpoint": 1_500, "none": 40_000},
)

# Reckoned and not tried, for want of the weights: the rates from the authors' for COCO by the root of the batch, the
# size from .27 CPU seconds of training an image, so that 300 images end in a quarter of an hour on two cores.
_NANO_INFO = ModelInfo(
    {
        **_INFO.defaults,
        "lr": 2e-4,
        "lr_backbone": 1e-4,
        "image_size": 320,
        "max_size": 560,
    },
    {"coco": 1_000, "imagenet": 20_000, "checkpoint": 1_000, "none": 40_000},
    small=True,
)

HF = Family(
    name="hf",
    settings_class="trainer.models.hf.settings.HFSettings",
    module="trainer.models.hf.model",
    models={},
    prefix=PREFIX,
    prefixed=_INFO,
    known={NANO.model: _NANO_INFO},
)
