"""Training from a configuration to checkpoints."""

from __future__ import annotations

import contextlib
import json
import logging
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from trainer.config import SIZES, TrainConfig
from trainer.data.checks import look_over
from trainer.data.coco_dataset import CocoDetection, annotation_file
from trainer.data.data_loader import EpochSampler, default_workers, eval_loader, train_loader
from trainer.data.transforms import EvalTransform, train_transform
from trainer.device import limit_threads, pick_device
from trainer.errors import TrainerError
from trainer.evaluation.coco_metrics import coco_metrics
from trainer.models.detr.criterion import SetCriterion
from trainer.models.detr.matcher import HungarianMatcher
from trainer.models.detr.model import DETR, build_model
from trainer.precision import Arithmetic, pick_arithmetic
from trainer.training.distributed import Processes
from trainer.training.early_stopping import follow, is_best
from trainer.training.ema import Average
from trainer.training.metric_log import Journal
from trainer.training.optimizer import build_optimizer
from trainer.training.preemption import Interrupt
from trainer.training.progress import Progress, in_words
from trainer.training.recipe import Choice, Facts, settle
from trainer.training.schedule import rate_factor, set_rates
from trainer.training.train_state import RunState, check_same_run, find_last
from trainer.training.train_step import Averages, Learner, predict, train_one_epoch

_log = logging.getLogger("trainer")


@dataclass(frozen=True)
class TrainResult:
    """What a finished run left behind."""

    best_checkpoint: Path
    """Weights of the epoch with the best AP on the validation images, then AP50."""
    last_checkpoint: Path
    log: Path
    """One JSON object an epoch."""
    summary: dict[str, Any]
    """The content of `train.json`."""


def train(config: TrainConfig) -> TrainResult:
    """Trains a DETR, or takes up a run that was cut off, and returns when its last epoch is done.

    The run lives in `config.output_dir`: `checkpoints/last.pth` and `best.pth`, `log.jsonl`, `train.json`
    and `tensorboard/`. Called again with the same configuration it goes on from `last.pth`, to the same
    weights (on a CPU, to the bit) as a run that was never cut off; a finished run returns at once.

    Args:
        config: of the run; see `TrainConfig`.

    Raises:
        TrainerError: the dataset, the weights or an earlier run in `output_dir` do not fit, or the loss
            stopped being finite (`last.pth` is then from before).
        SystemExit: with code 143 after SIGTERM, once `last.pth` is written.
    """
    processes = Processes.from_environment()
    device = pick_device(config.device, processes.local_rank)
    if not processes.leads:
        _log.setLevel(logging.ERROR)
    with Interrupt() as interrupt, processes.connect(device):
        threads = limit_threads(processes.on_this_machine)
        arithmetic = pick_arithmetic(config.precision, device)
        train_set, val_set = _open_datasets(config)
        earlier = find_last(config.output_dir)
        before = earlier["config"] if earlier is not None else None
        config, choices = settle(config, _facts(train_set, processes, device), before)
        if earlier is not None:
            check_same_run(earlier, config, train_set.categories)
        train_set.transform = train_transform(config.augment, config.image_size, config.max_size)
        warnings = look_over(
            train_set,
            val_set,
            num_queries=config.num_queries,
            image_size=config.image_size,
            max_size=config.max_size,
        )
        torch.manual_seed(config.seed + processes.rank)
        state = _new_state(config, train_set, device, arithmetic, processes, earlier)
        if earlier is not None:
            state.resume(earlier)
        else:
            _say(choices, warnings)
        state.position.warnings = [*warnings, *(w for w in state.position.warnings if w not in warnings)]
        if device.type == "cuda" and torch.cuda.device_count() > processes.on_this_machine:
            _log.info(
                "%d GPUs are here and %d are used: `torchrun --nproc-per-node %d -m steps train` uses all",
                torch.cuda.device_count(),
                processes.on_this_machine,
                torch.cuda.device_count(),
            )
        if state.position.epoch < state.end_epoch:
            _log.info("training on %s in %s with %d threads", device, arithmetic.name, threads)
            _run(state, train_set, val_set, device, arithmetic, interrupt)
        else:
            _log.info("the run in %s has its %d epochs already", config.output_dir, state.position.epoch)
        return _finish(state, train_set, val_set, device, arithmetic, choices)


def _open_datasets(config: TrainConfig) -> tuple[CocoDetection, CocoDetection]:
    """The images to learn from and those to validate on, under one numbering of the classes."""
    as_they_are = EvalTransform(config.image_size, config.max_size)
    train_file = annotation_file(config.dataset_dir, "train")
    train_set = CocoDetection(train_file, as_they_are, images_root=config.images_root, seed=config.seed)
    if not train_set.categories:
        raise TrainerError(f"{train_file} names no categories; give the CVAT project its labels")
    if not len(train_set) or not train_set.num_boxes:
        raise TrainerError(
            f"{train_file} has {len(train_set)} images and {train_set.num_boxes} boxes; there is nothing"
            " to learn, so annotate some images"
        )
    val_set = CocoDetection(
        annotation_file(config.dataset_dir, "val"),
        as_they_are,
        images_root=config.images_root,
        label_of=train_set.label_of,
    )
    _log.info(
        "%d images with %d boxes to train on, %d with %d to validate on, classes: %s",
        len(train_set),
        train_set.num_boxes,
        len(val_set),
        val_set.num_boxes,
        ", ".join(category.name for category in train_set.categories),
    )
    return train_set, val_set


def _facts(train_set: CocoDetection, processes: Processes, device: torch.device) -> Facts:
    """What the recipe looks at."""
    on_gpu = device.type == "cuda"
    return Facts(
        images=len(train_set),
        most_boxes=train_set.most_boxes,
        processes=processes.size,
        gpu_memory=torch.cuda.get_device_properties(device).total_memory / 1e9 if on_gpu else None,
    )


def _say(choices: list[Choice], warnings: list[str]) -> None:
    """What the recipe chose, and what the data makes one fear, before the first step."""
    if choices:
        _log.info("chosen for this dataset (hyperparameters override each; `recipe: paper` all):")
    for choice in choices:
        _log.info("  %s = %s: %s", choice.field, choice.value, choice.reason)
    for warning in warnings:
        _log.warning("WARNING: %s", warning)


def _new_state(
    config: TrainConfig,
    train_set: CocoDetection,
    device: torch.device,
    arithmetic: Arithmetic,
    processes: Processes,
    earlier: dict[str, Any] | None,
) -> RunState:
    """Model and optimizer as they are before the first step."""
    model = build_model(
        config.model,
        len(train_set.categories),
        # A run taken up again has its weights, and the file or address of the first ones may be gone by now.
        config.pretrained if earlier is None else None,
        class_names=[category.name for category in train_set.categories],
        num_queries=config.num_queries,
        dropout=config.dropout,
        aux_loss=config.aux_loss,
        frozen_norm=_frozen_norm(config) if earlier is None else earlier["model_config"]["frozen_norm"],
        sizes={name: getattr(config, name) for name in SIZES},
    ).to(device)
    if processes.many and device.type == "cuda":
        model = cast(DETR, nn.SyncBatchNorm.convert_sync_batchnorm(model))
    return RunState(
        config,
        train_set.categories,
        model,
        build_optimizer(model, config),
        average=Average(model, config.ema_decay) if config.ema_decay else None,
        scaler=arithmetic.scaler(),
        processes=processes,
    )


def _frozen_norm(config: TrainConfig) -> bool | None:
    """Normalisation statistics are only worth keeping where somebody has estimated them."""
    if config.pretrained is None:
        return False
    return True if config.pretrained in ("coco", "imagenet") else None


def _run(
    state: RunState,
    train_set: CocoDetection,
    val_set: CocoDetection,
    device: torch.device,
    arithmetic: Arithmetic,
    interrupt: Interrupt,
) -> None:
    """The epochs that are still to come."""
    config, position, processes = state.config, state.position, state.processes
    criterion = SetCriterion(
        len(state.categories),
        HungarianMatcher(config.set_cost_class, config.set_cost_bbox, config.set_cost_giou),
        ce_loss_coef=config.ce_loss_coef,
        bbox_loss_coef=config.bbox_loss_coef,
        giou_loss_coef=config.giou_loss_coef,
        eos_coef=config.eos_coef,
    ).to(device)
    learner = Learner(
        processes.wrap(state.model, device),
        criterion,
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
    journal = Journal(config.output_dir, position.epoch, position.step) if processes.leads else None
    progress = Progress(lambda: state.end_epoch, len(sampler), config.log_seconds, bar=processes.leads)
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
            state.average.update(state.model, position.step)
        position.train_seconds += clock.lap(position)
        progress.step(position.epoch, position.step_in_epoch, figures["loss"])
        if stop:
            leave()

    def leave() -> None:
        clock.lap(position)
        state.save_last()
        _log.info("asked to stop; %s has everything to go on", state.last_path)
        raise SystemExit(143)

    def leave_if_asked() -> None:
        # Between steps the processes are apart: together they leave at the next one.
        if interrupt.wanted and not processes.many:
            leave()

    with progress, contextlib.closing(journal) if journal is not None else contextlib.nullcontext():
        while position.epoch < state.end_epoch:
            clock.lap(position)
            sampler.epoch, sampler.first_batch = position.epoch, position.step_in_epoch
            try:
                train_one_epoch(
                    learner, loader, before_step=before_step, after_step=after_step, wish=lambda: interrupt.wanted
                )
            except TrainerError as error:
                raise TrainerError(f"epoch {position.epoch + 1}, step {position.step_in_epoch + 1}: {error}") from None
            validation = None
            if (position.epoch + 1) % config.eval_every == 0 or position.epoch + 1 == state.end_epoch:
                validation = _validate(state, criterion, val_set, val_loader, device, arithmetic, leave_if_asked)
            clock.lap(position)
            _end_epoch(state, journal, progress, validation)


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
    criterion: SetCriterion,
    val_set: CocoDetection,
    loader: Any,
    device: torch.device,
    arithmetic: Arithmetic,
    leave_if_asked: Any,
) -> dict[str, float] | None:
    """Losses and COCO's twelve numbers on the validation images; None when there are none."""
    if not len(val_set):
        return None
    category_ids = [category.id for category in state.categories]
    rows, losses = predict(
        state.usable,
        loader,
        device,
        category_ids,
        criterion=criterion,
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
    kept = {name: means.means()[name] for name in ("loss", "loss_ce", "loss_bbox", "loss_giou")}
    return {**kept, **metrics}


def _end_epoch(
    state: RunState, journal: Journal | None, progress: Progress, validation: dict[str, float] | None
) -> None:
    """Counts the epoch, then writes checkpoints, log and a line to read."""
    config, position = state.config, state.position
    means, images, steps = state.averages.means(), int(state.averages.weight), position.step_in_epoch
    seconds, rates = position.epoch_seconds, [group["lr"] for group in state.optimizer.param_groups]
    position.epoch += 1
    position.step_in_epoch, position.epoch_seconds = 0, 0.0
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
        "lr": rates[0],
        "lr_backbone": rates[1],
        "train": means,
        "val": validation,
        "seconds": seconds,
        "seconds_per_step": seconds / max(1, steps),
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


def _finish(
    state: RunState,
    train_set: CocoDetection,
    val_set: CocoDetection,
    device: torch.device,
    arithmetic: Arithmetic,
    choices: list[Choice],
) -> TrainResult:
    """Writes train.json and says how it went."""
    config, position = state.config, state.position
    summary = {
        "model": config.model,
        "parameters": sum(parameter.numel() for parameter in state.model.parameters()),
        "classes": [category.name for category in state.categories],
        "category_ids": [category.id for category in state.categories],
        "images": {"train": len(train_set), "val": len(val_set)},
        "boxes": {"train": train_set.num_boxes, "val": val_set.num_boxes},
        "epochs": position.epoch,
        "steps": position.step,
        "best_epoch": position.best_epoch,
        "best_AP": position.best.get("AP"),
        "best_AP50": position.best.get("AP50"),
        "best": position.best,
        "seconds": position.seconds,
        "seconds_per_step": position.train_seconds / max(1, position.step),
        "device": str(device),
        "precision": arithmetic.name,
        "processes": state.processes.size,
        "config": config.model_dump(mode="json"),
        "recipe": [choice.as_row() for choice in choices],
        "warnings": position.warnings,
    }
    if state.processes.leads:
        (config.output_dir / "train.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    _log.info(
        "done: %d epochs in %s, best AP %s in epoch %d",
        position.epoch,
        in_words(position.seconds),
        "not measured" if not position.best else f"{position.best['AP']:.3f}",
        position.best_epoch,
    )
    return TrainResult(
        best_checkpoint=state.best_path,
        last_checkpoint=state.last_path,
        log=config.output_dir / "log.jsonl",
        summary=summary,
    )
