"""Hyperparameters of the distinct-query detector and the model on offer, without torch."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from trainer.models.family import Family, ModelInfo


class DdqSettings(BaseModel):
    """What may be changed about the network, its matching and its loss."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    dim: int = Field(128, ge=32, multiple_of=32, description="Channels of the pyramid and of the queries")
    num_queries: int = Field(100, ge=1, description="Maximum number of objects that can be found in an image")
    candidates: int = Field(600, ge=1, description="Best cells among which duplicates are suppressed")
    distinct_iou: float = Field(0.7, gt=0, le=1, description="Overlap above which two queries are duplicates")
    decoder_layers: int = Field(2, ge=1, description="Number of decoder layers, each of which refines the boxes")
    heads: int = Field(8, ge=1, description="Number of attention heads; must divide dim")
    points: int = Field(4, ge=1, description="Sampling points for each head and pyramid level")
    feedforward: int = Field(512, ge=1, description="Hidden width of the decoder's feed-forward networks")
    denoising_queries: int = Field(200, ge=0, description="Queries made from noisy ground truth; 0: none")

    cost_class: float = Field(2, ge=0, description="Weight of the class score in the matching")
    cost_box: float = Field(5, ge=0, description="Weight of the L1 distance in the matching")
    cost_giou: float = Field(2, ge=0, description="Weight of the generalised IoU in the matching")
    class_loss: float = Field(1, ge=0, description="Weight of the classification loss")
    box_loss: float = Field(5, ge=0, description="Weight of the L1 box loss")
    giou_loss: float = Field(2, ge=0, description="Weight of the generalised IoU loss")
    dense_loss: float = Field(4, ge=0, description="Weight of the first stage's losses")
    assigned_cells: int = Field(10, ge=1, description="Cells of the first stage that learn from each object")


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
    settings=DdqSettings,
    module="trainer.models.ddq.model",
    models=_MODELS,
    max_objects="num_queries",
)
