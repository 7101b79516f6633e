"""Hyperparameters of the detectors of transformers, without torch and without transformers."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class HFSettings(BaseModel):
    """None: what there is to set about these models is in their published configurations."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
