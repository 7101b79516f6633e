"""One step of learning, and an epoch of them."""

from __future__ import annotations

import contextlib
import itertools
import logging
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import cast

import torch
from torch import Tensor, nn

from trainer.data.batch import Batch
from trainer.data.data_loader import batches
from trainer.device import Arithmetic
from trainer.errors import TrainerError
from trainer.models.interface import DetectionModel
from trainer.training.distributed import Processes

_log = logging.getLogger("trainer")


@dataclass
class Learner:
    """What takes an optimizer step on a batch."""

    model: nn.Module
    """As `Processes.wrap` gives it."""
    optimizer: torch.optim.Optimizer
    device: torch.device
    clip_max_norm: float
    """Gradient norm to clip at (appendix A.4); 0 never clips."""
    arithmetic: Arithmetic = field(default_factory=lambda: Arithmetic("fp32", "cpu"))
    scaler: torch.amp.GradScaler = field(default_factory=lambda: torch.amp.GradScaler(enabled=False))
    processes: Processes = field(default_factory=Processes)
    parts: int = 1
    """How many parts a batch is computed in, one after the other. The gradients are those of the whole, but for batch
    normalisation that is not frozen: it normalises by the images of a part."""
    splits_further: bool = False
    """Take more parts when the GPU's memory does not hold one, rather than give up."""

    def step(self, batch: Batch, stop_requested: bool = False) -> tuple[dict[str, float], bool]:
        """Learns from a batch that is on the device.

        Args:
            batch: this process's share of the step's images.
            stop_requested: whether this process was asked to stop.

        Returns:
            The step's figures over all processes (those of the model; `grad_norm`, before clipping, unless the scaler
            passes over the step; `images`, their number), and whether any process was asked to stop.

        Raises:
            TrainerError: the loss or the gradient is not finite, or the GPU's memory is full; the weights are
                those before the step.
        """
        figures = self._gradients(batch)
        self.scaler.unscale_(self.optimizer)
        limit = self.clip_max_norm if self.clip_max_norm > 0 else math.inf
        figures["grad_norm"] = nn.utils.clip_grad_norm_(self.model.parameters(), limit)
        values, stop = self._to_host(figures, len(batch.images), stop_requested)
        # A gradient that overflows fp16 is the scaler's business: it passes over the step and scales less.
        watched = ("loss",) if self.scaler.is_enabled() and self.scaler.get_scale() > 1 else ("loss", "grad_norm")
        for name in watched:
            if not math.isfinite(values[name]):
                what = "loss" if name == "loss" else "gradient"
                raise TrainerError(
                    f"the {what} is {values[name]}; training stops"
                    " (lower lr, or look for broken boxes or images in the dataset)"
                )
        if not math.isfinite(values["grad_norm"]):
            del values["grad_norm"]
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return values, stop

    def _gradients(self, batch: Batch) -> dict[str, Tensor]:
        """Fills the gradients and gives the figures of this process's images, each a scalar."""
        while True:
            try:
                return self._accumulate(batch)
            except torch.OutOfMemoryError:
                # Other processes would wait for this one in the middle of a step.
                alone = self.splits_further and not self.processes.many
                if not alone or self.parts >= len(batch.images):
                    raise TrainerError(
                        f"the GPU's memory is full with {len(batch.images)} images of {_size(batch)} px in"
                        f" {self.parts} part(s); lower batch_size or image_size, or raise accumulate"
                    ) from None
            # Outside the handler: the exception holds on to the tensors that have to go.
            self.parts = min(self.parts * 2, len(batch.images))
            torch.cuda.empty_cache()
            _log.info("the GPU's memory is full: batches are computed in %d parts from here on", self.parts)

    def _accumulate(self, batch: Batch) -> dict[str, Tensor]:
        self.optimizer.zero_grad(set_to_none=True)
        model = self._unwrapped
        whole = self.processes.mean(model.normalizers(batch.targets), self.device)
        figures: dict[str, Tensor] = {}
        count = min(self.parts, len(batch.images))
        if self.parts > 1:
            # As many on every process: with SyncBatchNorm all of them take part in each pass.
            count = self.processes.least(count, self.device)
        parts = list(_parts(batch, count))
        for index, part in enumerate(parts):
            is_last = index == len(parts) - 1
            # The processes average their gradients once, when they are complete.
            with self.processes.no_sync(self.model) if not is_last else contextlib.nullcontext():
                with self.arithmetic.autocast():
                    outputs = self.model(part.images, part.padding_mask, part.targets)
                losses = model.losses(outputs, part.targets, whole)
                self.scaler.scale(losses["loss"]).backward()
            for name, value in losses.items():
                figures[name] = figures[name] + value.detach() if name in figures else value.detach()
        return figures

    @property
    def _unwrapped(self) -> DetectionModel:
        parallel = isinstance(self.model, nn.parallel.DistributedDataParallel)
        return cast(DetectionModel, self.model.module if parallel else self.model)

    def _to_host(self, figures: dict[str, Tensor], images: int, stop_requested: bool) -> tuple[dict[str, float], bool]:
        """Means over the processes and the sum of images, with one copy from the device."""
        counts = torch.tensor([images, stop_requested], dtype=torch.float32, device=self.device)
        stacked = torch.cat([torch.stack([value.float() for value in figures.values()]), counts])
        *sums, all_images, stops = self.processes.sum(stacked).tolist()
        means = {name: value / self.processes.size for name, value in zip(figures, sums, strict=True)}
        return {**means, "images": all_images}, stops > 0


def _parts(batch: Batch, parts: int) -> Iterator[Batch]:
    """A batch in so many parts of nearly equal size, under the padding of the whole."""
    count = len(batch.images)
    for start, stop in itertools.pairwise(count * part // parts for part in range(parts + 1)):
        chosen = slice(start, stop)
        yield Batch(batch.images[chosen], batch.padding_mask[chosen], batch.targets[chosen])


def _size(batch: Batch) -> str:
    return "x".join(str(side) for side in batch.images.shape[:1:-1])


def train_one_epoch(
    learner: Learner,
    loader: Iterable[Batch],
    *,
    before_step: Callable[[], None],
    after_step: Callable[[dict[str, float], int, bool], None],
    stop_requested: Callable[[], bool] = lambda: False,
) -> None:
    """Takes an optimizer step on every batch of the loader.

    Args:
        learner: whose model is left in training mode.
        loader: of `Batch`.
        before_step: called ahead of each step, to set the learning rate.
        after_step: called after each with its figures, the number of images over all processes and whether
            any process was asked to stop. What it raises ends the epoch.
        stop_requested: asked ahead of each step; see `Learner.step`.

    Raises:
        TrainerError: as `Learner.step` does.
    """
    learner.model.train()
    for batch in batches(loader):
        before_step()
        figures, stop = learner.step(batch.to(learner.device), stop_requested())
        after_step(figures, int(figures.pop("images")), stop)
