"""DETR as a family, and the models on offer."""

from __future__ import annotations

from trainer.models.family import Family, ModelInfo

_STEPS_OF_SMALL = {"coco": 1_000, "imagenet": 1_500, "checkpoint": 600, "none": 1_000}

# The declared defaults are the paper's (section 4 and appendix A.4).
_MODELS = {
    "detr_resnet50": ModelInfo(),
    "detr_resnet50_dc5": ModelInfo(gb_per_image=7.0),
    "detr_resnet101": ModelInfo(gb_per_image=4.9),
    "detr_resnet101_dc5": ModelInfo(gb_per_image=9.8),
}

# What `ddq_lite0` does better: the tiny one was for drawn shapes, the light one for photographs.
_RETIRED = {
    "detr_tiny": ModelInfo(
        {
            "pretrained": None,
            "epochs": 40,
            "batch_size": 16,
            "lr": 5e-4,
            "warmup_steps": 50,
            "lr_drop_at": 0.85,
            "num_queries": 20,
            "dropout": 0.0,
            "image_size": 64,
            "max_size": 128,
            "augment": "light",
        },
        _STEPS_OF_SMALL,
        small=True,
        note="detr_tiny was made for drawn shapes. On photographs use ddq_lite0, which starts from ImageNet weights.",
    ),
    "detr_lite0": ModelInfo(
        {
            "pretrained": "imagenet",
            "epochs": 50,
            "batch_size": 4,
            "lr": 6e-4,
            "lr_backbone": 1e-4,
            "warmup_steps": 50,
            "lr_drop_at": 0.8,
            "dropout": 0.0,
            "image_size": 256,
            "max_size": 448,
            # The paper's crops and scales, made for 800 px, would leave few pixels of small objects.
            "augment": "light",
        },
        _STEPS_OF_SMALL,
        small=True,
    ),
}

DETR = Family(
    name="detr",
    settings_class="trainer.models.detr.settings.DetrSettings",
    module="trainer.models.detr.model",
    models=_MODELS,
    retired=_RETIRED,
    max_objects="num_queries",
)
