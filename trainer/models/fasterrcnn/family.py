"""Faster R-CNN as a family, and the models on offer."""

from __future__ import annotations

from trainer.models.family import Family, ModelInfo

# torchvision trains with SGD; these rates are AdamW's. The light one was tried on BCCD and on 160 photographs of
# raccoons, the other is reckoned from the published schedule for 16 images a step.
_MODELS = {
    "fasterrcnn_lite0": ModelInfo(
        {
            "pretrained": "imagenet",
            "epochs": 50,
            "batch_size": 4,
            "lr": 5e-4,
            "lr_backbone": 1e-4,
            "weight_decay": 1e-2,
            "clip_max_norm": 5.0,
            "warmup_steps": 20,
            "lr_drop_at": 0.8,
            "image_size": 256,
            "max_size": 448,
            "augment": "light",
        },
        {"coco": 1_000, "imagenet": 1_500, "checkpoint": 600, "none": 6_000},
        small=True,
    ),
    "fasterrcnn_resnet50": ModelInfo(
        {
            "epochs": 50,
            "lr_drop_at": 0.8,
            "clip_max_norm": 5.0,
            "augment": "light",
        },
        {"coco": 1_500, "imagenet": 6_000, "checkpoint": 1_500, "none": 40_000},
        gb_per_image=2.5,
    ),
}

FASTERRCNN = Family(
    name="fasterrcnn",
    settings_class="trainer.models.fasterrcnn.settings.FasterRCNNSettings",
    module="trainer.models.fasterrcnn.model",
    models=_MODELS,
    max_objects="max_detections",
)
