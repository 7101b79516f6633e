"""The epochs of a run: steps, validation, checkpoints and the log."""

from __future__ import annotations

import contextlib
import logging
import time
from typing import Any

import torch

from trainer.data.coco_dataset import CocoDetection
from trainer.data.data_loader import default_workers, eval_loader, train_loader
from trainer.data.sampler import EpochSampler
from trainer.device import Arithmetic
from trainer.errors import TrainerError
from trainer.evaluation.coco_metrics import coco_metrics
from trainer.evaluation.operating_point import operating_points
from trainer.evaluation.predict import Averages, predict
from trainer.training.early_stopping import follow, is_best
from trainer.training.metric_log import Journal
from trainer.training.optimizer import rate_factor, set_rates
from trainer.training.preemption import Interrupt
from trainer.training.progress import Progress, in_words
from trainer.training.train_state import RunState
from trainer.training.train_step import Learner, train_one_epoch

_log = logging.getLogger("trainer")


def run_epochs(
    state: RunState,
    train_set: CocoDetection,
    val_set: CocoDetection,
    device: torch.device,
    arithmetic: Arithmetic,
    interrupt: Interrupt,
) -> None:
    """The epochs that are still to come."""
    config, position, processes = state.config, state.position, state.processes
    learner = Learner(
        processes.wrap(state.model, device),
        state.optimizer,
        device,
        config.clip_max_norm,
        arithmetic,
        state.scaler,
        processes,
        parts=config.accumulate,
        splits_further="batch_size" not in config.model_fields_set,
    )
    workers = config.workers
    if workers == "auto":
        workers = default_workers(device, processes.on_this_machine)
    ranks = {"rank": processes.rank, "world_size": processes.size}
    sampler = EpochSampler(
        len(train_set), config.batch_size, config.seed, **ranks, sizes=train_set.sizes_in, epochs=state.end_epoch
    )
    loader = train_loader(train_set, sampler, workers)
    val_loader = eval_loader(val_set, config.batch_size, workers, **ranks)
    journal = Journal(config.output_dir, position.epoch, position.step) if processes.is_main else None
    sampler.seen = frozenset(position.seen)
    # What remains of an epoch that was begun with other settings, counted in batches of this run's.
    position.step_in_epoch = sampler.steps - len(sampler)
    progress = Progress(lambda: state.end_epoch, sampler.steps, config.log_seconds, bar=processes.is_main)
    clock = _Clock()

    def before_step() -> None:
        factor = rate_factor(
            position.epoch, position.step, warmup_steps=config.warmup_steps, drop_epoch=state.drop_epoch
        )
        set_rates(state.optimizer, factor)

    def after_step(figures: dict[str, float], images: int, stop: bool) -> None:
        state.averages.add(figures, images)
        position.step += 1
        position.step_in_epoch += 1
        if state.average is not None:
            state.average.update_parameters(state.model)
        seconds = clock.lap(position)
        position.train_seconds += seconds
        position.epoch_train_seconds += seconds
        progress.step(position.epoch, position.step_in_epoch, figures["loss"])
        if stop:
            leave()

    def leave() -> None:
        clock.lap(position)
        position.seen = sorted(sampler.seen_after(position.step_in_epoch - (sampler.steps - len(sampler))))
        state.save_last()
        _log.info("asked to stop; the run resumes from %s", state.last_path)
        raise SystemExit(143)

    def leave_if_asked() -> None:
        # Between steps the processes are apart: together they leave at the next one.
        if interrupt.stop_requested and not processes.many:
            leave()

    with progress, contextlib.closing(journal) if journal is not None else contextlib.nullcontext():
        while position.epoch < state.end_epoch:
            clock.lap(position)
            sampler.epoch = position.epoch
            try:
                train_one_epoch(
                    learner,
                    loader,
                    before_step=before_step,
                    after_step=after_step,
                    stop_requested=lambda: interrupt.stop_requested,
                )
            except TrainerError as error:
                raise TrainerError(f"epoch {position.epoch + 1}, step {position.step_in_epoch + 1}: {error}") from None
            validation = None
            if (position.epoch + 1) % config.eval_every == 0 or position.epoch + 1 == state.end_epoch:
                validation = _validate(state, val_set, val_loader, device, arithmetic, leave_if_asked)
            clock.lap(position)
            _end_epoch(state, journal, progress, validation)
            sampler.seen = frozenset()


class _Clock:
    """Adds the time since it was last asked to where the run keeps its account."""

    def __init__(self) -> None:
        self._last = time.monotonic()

    def lap(self, position: Any) -> float:
        now = time.monotonic()
        spent, self._last = now - self._last, now
        position.seconds += spent
        position.epoch_seconds += spent
        return spent


def _validate(
    state: RunState,
    val_set: CocoDetection,
    loader: Any,
    device: torch.device,
    arithmetic: Arithmetic,
    leave_if_asked: Any,
) -> dict[str, float] | None:
    """Losses and COCO's twelve numbers on the validation images; None when there are none."""
    if not len(val_set):
        return None
    rows, losses = predict(
        state.eval_model,
        loader,
        device,
        val_set.category_ids,
        with_losses=True,
        arithmetic=arithmetic,
        after_batch=leave_if_asked,
    )
    # Each process has looked at images of its own; all of them score all of the rows, and agree.
    means, predictions = Averages(), []
    for part, figures in state.processes.gather((rows, losses.state_dict())):
        predictions += part
        averages = Averages()
        averages.load_state_dict(figures)
        means.add(averages.means(), averages.weight)
    metrics, _ = coco_metrics(val_set.coco, predictions)
    state.position.operating_points = operating_points(val_set.coco, predictions).as_dict()
    return {**means.means(), **metrics}


def _end_epoch(
    state: RunState, journal: Journal | None, progress: Progress, validation: dict[str, float] | None
) -> None:
    """Counts the epoch, then writes checkpoints, log and a line to read."""
    config, position = state.config, state.position
    means, images, steps = state.averages.means(), int(state.averages.weight), position.step_in_epoch
    seconds, factor = position.epoch_seconds, _rate_factor(state.optimizer)
    seconds_per_step = position.epoch_train_seconds / max(1, steps)
    position.epoch += 1
    position.step_in_epoch, position.seen = 0, []
    position.epoch_seconds = position.epoch_train_seconds = 0.0
    state.averages.load_state_dict({"sums": {}, "weight": 0.0})

    if validation is not None:
        position.latest = validation
        follow(state, validation)
    is_last = position.epoch >= state.end_epoch
    if (validation is not None and is_best(position.best, validation)) or (is_last and not position.best):
        position.best, position.best_epoch = validation or {}, position.epoch
        state.save_best()
    row = {
        "epoch": position.epoch,
        "step": position.step,
        "lr": config.lr * factor,
        "lr_backbone": config.lr_backbone * factor,
        "train": means,
        "val": validation,
        "seconds": seconds,
        "seconds_per_step": seconds_per_step,
        "images": images,
    }
    if journal is not None:
        journal.epoch(row)
    # After the log: a kill in between repeats the epoch and its line, and loses neither.
    if is_last or position.epoch % config.checkpoint_every == 0:
        state.save_last()
    _log.info(
        "epoch %d/%d: loss %.3f%s, %.3f s/step, %s left",
        position.epoch,
        state.end_epoch,
        means["loss"],
        "" if validation is None else ", AP {AP:.3f}, AP50 {AP50:.3f}".format(**validation),
        row["seconds_per_step"],
        in_words(progress.left(position.epoch, 0)),
    )


def _rate_factor(optimizer: torch.optim.Optimizer) -> float:
    """What the last step multiplied the learning rates by."""
    return float(next(group["lr"] / group["full_lr"] for group in optimizer.param_groups if group["full_lr"]))
