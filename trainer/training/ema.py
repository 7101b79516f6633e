"""A running average of the weights, which validates better than the weights of any one step."""

from __future__ import annotations

from typing import cast

from torch import Tensor
from torch.optim.swa_utils import PARAM_LIST, AveragedModel, get_ema_multi_avg_fn

from trainer.models.interface import DetectionModel


class Average(AveragedModel):
    """Exponential moving average of a model's weights and buffers (Polyak and Juditsky 1992).

    The share that the average keeps of itself rises with the steps up to `decay`, so that it forgets the random
    weights of the start.
    """

    def __init__(self, model: DetectionModel, decay: float) -> None:
        """Starts from the model's weights."""
        super().__init__(model, multi_avg_fn=self._move, use_buffers=True)
        self.requires_grad_(False)
        self.decay = decay

    @property
    def model(self) -> DetectionModel:
        """The averaged weights, as a model to validate and to use."""
        return cast(DetectionModel, self.module)

    def resume(self, weights: dict[str, Tensor], steps: int) -> None:
        """Takes up an average of so many steps, given under the model's names."""
        self.module.load_state_dict(weights)
        self.n_averaged.fill_(steps)

    def _move(self, averages: PARAM_LIST, weights: PARAM_LIST, _: Tensor | int) -> None:
        if averages[0].is_floating_point():
            # Not the count that torch hands over: that one may be on a GPU, and would have to be waited for.
            steps = int(self.n_averaged) + 1
            get_ema_multi_avg_fn(min(self.decay, steps / (steps + 9)))(averages, weights, steps)
        else:
            for average, value in zip(averages, weights, strict=True):
                average.copy_(value)
