"""Hyperparameters of the distinct-query detector, without torch."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


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
