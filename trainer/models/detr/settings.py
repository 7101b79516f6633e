"""Hyperparameters of DETR, without torch."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

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
