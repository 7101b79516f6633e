"""Hyperparameters of Faster R-CNN, without torch."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class FasterRCNNSettings(BaseModel):
    """What may be changed about the second stage."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    max_detections: int = Field(100, ge=1, description="Maximum number of objects that can be found in an image")
    score_threshold: float = Field(0.01, ge=0, lt=1, description="Minimum score of a detection")
    nms_iou: float = Field(
        0.5, gt=0, lt=1, description="Overlap above which NMS drops the lower-scored of two detections"
    )
