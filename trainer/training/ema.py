"""A running average of the weights, which validates better than the weights of any one step."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn


class Average:
    """Exponential moving average of a model's weights and buffers (Polyak and Juditsky 1992).

    The share that the average keeps of itself rises with the steps up to `decay`, so that it forgets the random
    weights of the start.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        """Starts from the model's weights."""
        self.model = copy.deepcopy(model).requires_grad_(False)
        self.decay = decay

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Moves towards the model's weights after its optimizer step number `step`, counted from 1."""
        keep = min(self.decay, step / (step + 9))
        ours, theirs = self.model.state_dict(), model.state_dict()
        floats = [name for name, value in ours.items() if value.is_floating_point()]
        torch._foreach_lerp_([ours[name] for name in floats], [theirs[name] for name in floats], 1 - keep)
        for name in ours.keys() - set(floats):
            ours[name].copy_(theirs[name])

    def state_dict(self) -> dict[str, Tensor]:
        """The averaged weights, under the model's names."""
        return self.model.state_dict()

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Takes up the average of a run that was cut off."""
        self.model.load_state_dict(state)
