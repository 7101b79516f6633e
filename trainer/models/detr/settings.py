"""Hyperparameters of DETR and the models on offer, without torch."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from trainer.models.family import Family, ModelInfo

SIZES = ("hidden_dim", "nheads", "enc_layers", "dec_layers", "dim_feedforward", "pre_norm", "position_embedding")
"""Settings that change the architecture behind a model's name."""


class DetrSettings(BaseModel):
    """What may be changed about the network, its matching and its loss; the defaults are the paper's.

    The sizes are the model's own where they are null (`trainer.models.detr.architectures`). With other sizes the
    authors' weights do not fit.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    num_queries: int = Field(100, ge=1, description="Maximum number of objects that can be found in an image")
    dropout: float = Field(0.1, ge=0, lt=1, description="Dropout probability in the transformer")
    aux_loss: bool = Field(True, description="Compute the loss after every decoder layer, not only after the last")

    hidden_dim: int | None = Field(None, ge=8, description="Width of the transformer")
    nheads: int | None = Field(None, ge=1, description="Number of attention heads; must divide hidden_dim")
    enc_layers: int | None = Field(None, ge=0, description="Number of encoder layers")
    dec_layers: int | None = Field(None, ge=1, description="Number of decoder layers")
    dim_feedforward: int | None = Field(None, ge=1, description="Hidden width of the feed-forward networks")
    pre_norm: bool | None = Field(None, description="Normalise before each sub-layer rather than after it")
    position_embedding: Literal["sine", "learned"] | None = Field(
        None, description="Position encoding of the feature cells"
    )

    ce_loss_coef: float = Field(1, ge=0, description="Weight of the classification loss")
    bbox_loss_coef: float = Field(5, ge=0, description="Weight of the L1 box loss")
    giou_loss_coef: float = Field(2, ge=0, description="Weight of the generalised IoU loss")
    eos_coef: float = Field(0.1, ge=0, le=1, description="Weight of the class 'no object'")
    set_cost_class: float = Field(1, ge=0, description="Weight of the class in the matching")
    set_cost_bbox: float = Field(5, ge=0, description="Weight of the L1 distance in the matching")
    set_cost_giou: float = Field(2, ge=0, description="Weight of the generalised IoU in the matching")

    @model_validator(mode="after")
    def _some_cost(self) -> DetrSettings:
        if self.set_cost_class == self.set_cost_bbox == self.set_cost_giou == 0:
            raise ValueError("set_cost_class, set_cost_bbox and set_cost_giou cannot all be 0")
        return self


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
    settings=DetrSettings,
    module="trainer.models.detr.model",
    models=_MODELS,
    retired=_RETIRED,
    max_objects="num_queries",
)
