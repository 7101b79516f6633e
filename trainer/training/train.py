"""Training from a configuration to checkpoints."""

from __future__ import annotations

import contextlib
import json
import logging
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, cast

import torch
from torch import nn

from trainer import checkpoint
from trainer.config import TrainConfig
from trainer.data.augmentation import train_transform
from trainer.data.checks import look_over
from trainer.data.coco_dataset import CocoDetection, annotation_file
from trainer.data.fingerprint import dataset_digest
from trainer.data.transforms import EvalTransform
from trainer.device import Arithmetic, limit_threads, pick_arithmetic, pick_device
from trainer.errors import TrainerError
from trainer.lock import only_writer
from trainer.models.interface import DetectionModel
from trainer.models.registry import family_of, model_info
from trainer.training.distributed import Processes
from trainer.training.ema import Average
from trainer.training.loop import run_epochs
from trainer.training.optimizer import build_optimizer
from trainer.training.preemption import Interrupt
from trainer.training.progress import in_words
from trainer.training.recipe import Choice, Facts, keep_settings, settle
from trainer.training.reference_results import comparable
from trainer.training.train_state import (
    RunState,
    check_data,
    check_settings,
    find_last,
    settings_digest,
    start_digest,
)

_log = logging.getLogger("trainer")

_LOCK = ".train.lock"


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
    """Trains a detector, or resumes a run that was cut off, and returns when its last epoch is done.

    The run lives in `config.output_dir`: `checkpoints/last.pth` and `best.pth`, `log.jsonl`, `train.json`
    and `tensorboard/`. Called again with the same configuration it resumes from `last.pth`, to the same
    weights (on a CPU, to the bit) as a run that was never cut off; a finished run returns at once.

    Args:
        config: of the run; see `TrainConfig`. In a run that is resumed, what is left out keeps its value
            (`trainer.training.recipe.keep_settings`).

    Raises:
        BusyError: another process trains into `output_dir`.
        TrainerError: the dataset, the weights or an earlier run in `output_dir` do not fit, the disk is full, or the
            loss stopped being finite (`last.pth` is then from before).
        SystemExit: with code 143 after SIGTERM, once `last.pth` is written.
    """
    processes = Processes.from_environment()
    if not processes.is_main:
        _log.setLevel(logging.ERROR)
    with only_writer(config.output_dir, "train", _LOCK) if processes.is_main else contextlib.nullcontext():
        return _train(config, processes)


def _train(config: TrainConfig, processes: Processes) -> TrainResult:
    if processes.is_main:
        _remove_unfinished(config.output_dir)
    earlier, start = find_last(config.output_dir), start_digest(config)
    if earlier is not None:
        with checkpoint.using(checkpoint.last_path(config.output_dir)):
            check_settings(earlier, config, start)
            start = earlier.get("start")
            config = keep_settings(config, earlier["config"], earlier.get("given", ()))
    device = pick_device(config.device, processes.local_rank)
    with processes.connect(device):
        threads = limit_threads(processes.on_this_machine)
        arithmetic = pick_arithmetic(config.precision, device)
        train_set, val_set = _open_datasets(config)
        facts = _facts(train_set, processes, device)
        data = _data(train_set, val_set)
        if earlier is not None:
            check_data(earlier, config, train_set.categories, data)
        config, choices = settle(config, facts, earlier["config"] if earlier is not None else ())
        if earlier is not None:
            made_before = [Choice(**row) for row in earlier.get("recipe", ())]
            choices = [c for c in made_before if c.field not in config.model_fields_set] + choices
        if config.model_reason:
            choices.insert(0, Choice("model", config.model, config.model_reason))
        train_set.transform = train_transform(config.augment, config.image_size, config.max_size)
        val_set.transform = EvalTransform(config.image_size, config.max_size)
        warnings = look_over(
            train_set,
            val_set,
            max_objects=_object_limit(config),
            image_size=config.image_size,
            max_size=config.max_size,
        )
        torch.manual_seed(config.seed + processes.rank)
        state = _new_state(config, train_set, device, arithmetic, processes, earlier)
        state.recipe = [choice.as_row() for choice in choices]
        state.data, state.start = data, start
        if earlier is not None:
            with checkpoint.using(checkpoint.last_path(config.output_dir)):
                state.resume(earlier)
        else:
            _say(choices, warnings)
            for line in comparable(config.model, len(train_set)):
                _log.info("%s", line)
        # Weights and optimizer states are copied: for the rest of the run they would lie in memory a second time.
        earlier = None
        state.position.warnings = [*warnings, *(w for w in state.position.warnings if w not in warnings)]
        if device.type == "cuda" and torch.cuda.device_count() > processes.on_this_machine:
            _log.info(
                "%d GPUs are here and %d are used: `--processes auto` uses all",
                torch.cuda.device_count(),
                processes.on_this_machine,
            )
        if state.position.epoch < state.end_epoch:
            _log.info("training on %s in %s with %d threads", device, arithmetic.name, threads)
            with Interrupt() as interrupt:
                run_epochs(state, train_set, val_set, device, arithmetic, interrupt)
        else:
            _log.info("the run in %s has its %d epochs already", config.output_dir, state.position.epoch)
            if (summary := _summary_of(state)) is not None:
                return _result(state, summary)
        return _finish(state, train_set, val_set, device, arithmetic)


def _remove_unfinished(output_dir: Path) -> None:
    """Removes what a run that was killed was writing."""
    for folder in (output_dir, output_dir / "checkpoints"):
        for path in folder.glob(".*.tmp"):
            path.unlink(missing_ok=True)


def _data(train_set: CocoDetection, val_set: CocoDetection) -> dict[str, str]:
    """The digests of the dataset and its parts.

    Raises:
        TrainerError: the parts are of two preparations, as when one is copied alone.
    """
    dataset = dataset_digest(train_set.digest, val_set.digest)
    if any(split.info.get("dataset_digest", dataset) != dataset for split in (train_set, val_set)):
        raise TrainerError(
            f"{train_set.path} and {val_set.path} do not belong together, so that they may share images; prepare the"
            " dataset again"
        )
    return {"dataset": dataset, "train": train_set.digest, "val": val_set.digest}


def _summary_of(state: RunState) -> dict[str, Any] | None:
    """The `train.json` that a finished run left; None where it was killed before."""
    try:
        summary = json.loads((state.config.output_dir / "train.json").read_bytes())
    except (OSError, ValueError):
        return None
    theirs = isinstance(summary, dict) and summary.get("data") == state.data and "steps" in summary
    return summary if theirs and summary["steps"] == state.position.step else None


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
        classes=train_set.categories,
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
        shorter_side=median(min(size) for size in train_set.sizes),
        smallest_class=train_set.smallest_class,
        processes=processes.size,
        gpu_memory=torch.cuda.get_device_properties(device).total_memory / 1e9 if on_gpu else None,
    )


def _say(choices: list[Choice], warnings: list[str]) -> None:
    """Logs what the recipe chose and the dataset warnings, before the first step."""
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
    family, class_names = family_of(config.model), [category.name for category in train_set.categories]
    spec = family.new_spec(config.model, len(class_names), config.family_settings)
    if earlier is None:
        model = family.build(spec)
        if config.pretrained is not None:
            model.load_pretrained(config.pretrained, class_names)
    else:
        # Its weights come from the checkpoint: the first ones may be gone by now, but what they made of the spec stays.
        _, before = checkpoint.model_in(earlier) or ("", {})
        model = family.build({**before, **spec})
    model = model.to(device)
    # Each process draws random weights of its own, and what is copied from them below would stay apart.
    processes.agree(model)
    if processes.many and device.type == "cuda":
        model = cast(DetectionModel, nn.SyncBatchNorm.convert_sync_batchnorm(model))
    return RunState(
        config,
        train_set.categories,
        model,
        build_optimizer(model, config),
        average=Average(model, config.ema_decay) if config.ema_decay else None,
        scaler=arithmetic.scaler(),
        processes=processes,
    )


def _object_limit(config: TrainConfig) -> tuple[str, int] | None:
    """The setting that limits how many objects are found in an image, and its value."""
    name = family_of(config.model).max_objects
    return None if name is None else (name, int(getattr(config, name)))


def _finish(
    state: RunState,
    train_set: CocoDetection,
    val_set: CocoDetection,
    device: torch.device,
    arithmetic: Arithmetic,
) -> TrainResult:
    """Writes train.json and says how it went."""
    config, position, limit = state.config, state.position, _object_limit(state.config)
    summary = {
        "model": config.model,
        "model_note": model_info(config.model).note,
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
        "figures": list(state.model.figures),
        "object_limit": None if limit is None else dict(zip(("setting", "value"), limit, strict=True)),
        "processes": state.processes.size,
        "config": config.model_dump(mode="json"),
        "data": state.data,
        "settings": settings_digest(config),
        "recipe": state.recipe,
        "warnings": position.warnings,
    }
    if state.processes.is_main:
        checkpoint.write_json(config.output_dir / "train.json", summary)
    _log.info(
        "done: %d epochs in %s, best AP %s in epoch %d",
        position.epoch,
        in_words(position.seconds),
        "not measured" if not position.best else f"{position.best['AP']:.3f}",
        position.best_epoch,
    )
    return _result(state, summary)


def _result(state: RunState, summary: dict[str, Any]) -> TrainResult:
    return TrainResult(
        best_checkpoint=state.best_path,
        last_checkpoint=state.last_path,
        log=state.config.output_dir / "log.jsonl",
        summary=summary,
    )
