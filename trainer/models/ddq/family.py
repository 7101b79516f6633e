"""The distinct-query detector as a family, and the model on offer."""

from __future__ import annotations

from trainer.models.family import Family, ModelInfo

# Tried on BCCD, on photographs of raccoons and on the drawn sample; see benchmarks/README.md.
_MODELS = {
    "ddq_lite0": ModelInfo(
        {
            "pretrained": "imagenet",
            "epochs": 14,
            "batch_size": 4,
            "lr": 8e-4,
            "lr_backbone": 2e-4,
            "weight_decay": 1e-2,
            "clip_max_norm": 5.0,
            "warmup_steps": 20,
            "lr_drop_at": 0.7,
            "ema_decay": 0.98,
            "image_size": 256,
            "max_size": 448,
            # The paper's crops and scales, made for 800 px, would leave few pixels of small objects.
            "augment": "light",
        },
        {"imagenet": 1_000, "checkpoint": 600, "none": 4_000},
        small=True,
    ),
}

DDQ = Family(
    name="ddq",
    settings_class="trainer.models.ddq.settings.DdqSettings",
    module="trainer.models.ddq.model",
    models=_MODELS,
    max_objects="num_queries",
)
