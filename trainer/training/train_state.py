"""Everything that a run cut off at any step needs to resume as if nothing had happened."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch.optim import Optimizer

from trainer import checkpoint
from trainer.config import MAY_CHANGE, TrainConfig
from trainer.data.coco_dataset import Category
from trainer.data.fingerprint import file_digest
from trainer.errors import TrainerError
from trainer.evaluation.predict import Averages
from trainer.models.interface import DetectionModel
from trainer.models.registry import family_of
from trainer.training.distributed import Processes
from trainer.training.ema import Average

_SETTINGS = ("full_lr", "weight_decay")


@dataclass
class Position:
    """Where a run is, in plain values."""

    epoch: int = 0
    """Complete epochs."""
    step_in_epoch: int = 0
    """Optimizer steps taken in the epoch under way."""
    seen: list[int] = field(default_factory=list)
    """Indices of the images that the epoch under way has seen, when the run was stopped in the middle of one."""
    step: int = 0
    """Optimizer steps in all."""
    seconds: float = 0.0
    """Time spent up to the last checkpoint, over all processes that worked on the run."""
    train_seconds: float = 0.0
    """The part of it spent in optimizer steps."""
    epoch_train_seconds: float = 0.0
    """The part of them that belongs to the epoch under way."""
    epoch_seconds: float = 0.0
    """Time spent in the epoch under way."""
    best_epoch: int = 0
    best: dict[str, float] = field(default_factory=dict)
    """Validation figures of the best epoch."""
    best_loss: float | None = None
    """The least loss on the validation images."""
    latest: dict[str, float] = field(default_factory=dict)
    """Validation figures of the last epoch that was validated."""
    operating_points: dict[str, Any] = field(default_factory=dict)
    """Score thresholds with the best F1, of the same epoch."""
    stalled: int = 0
    """Validations since the last progress."""
    drop_epoch: int | None = None
    """When the rates fell ahead of the configuration's epoch."""
    end_epoch: int | None = None
    """When the run ends ahead of the configuration's epochs."""
    warnings: list[str] = field(default_factory=list)
    """What was noticed on the way."""


@dataclass
class RunState:
    """A run under way: what learns, and where it is."""

    config: TrainConfig
    categories: list[Category]
    model: DetectionModel
    optimizer: Optimizer
    position: Position = field(default_factory=Position)
    averages: Averages = field(default_factory=Averages)
    average: Average | None = None
    """Of the weights, where the configuration asks for it."""
    scaler: torch.amp.GradScaler = field(default_factory=lambda: torch.amp.GradScaler(enabled=False))
    processes: Processes = field(default_factory=Processes)
    recipe: list[dict[str, Any]] = field(default_factory=list)
    """What the recipe chose, as `Choice.as_row` gives it."""
    data: dict[str, str] = field(default_factory=dict)
    """What is trained on: the digests of `dataset`, and of its parts `train` and `val` (`trainer.data.fingerprint`)."""
    start: str | None = None
    """`start_digest` of the run."""

    @property
    def drop_epoch(self) -> int:
        """Epochs at the full learning rate."""
        return self.config.drop_epoch if self.position.drop_epoch is None else self.position.drop_epoch

    @property
    def end_epoch(self) -> int:
        """Epochs of the run."""
        return self.config.epochs if self.position.end_epoch is None else self.position.end_epoch

    @property
    def eval_model(self) -> DetectionModel:
        """The weights to validate and to use."""
        return self.model if self.average is None else self.average.model

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(self.model.parameters()).device

    @property
    def last_path(self) -> Path:
        """The checkpoint to resume from."""
        return checkpoint.last_path(self.config.output_dir)

    @property
    def best_path(self) -> Path:
        """The checkpoint to use."""
        return checkpoint.best_path(self.config.output_dir)

    def save_last(self) -> None:
        """Writes the checkpoint to resume from; called by every process."""
        by_rank = self.processes.gather(_random_state(self.device))
        if not self.processes.is_main:
            return
        content = {
            **self._to_use(self.position.latest),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "schedule": {"epoch": self.position.epoch, "step": self.position.step},
            "rng": by_rank,
            "position": asdict(self.position),
            "averages": self.averages.state_dict(),
            "given": sorted(self.config.model_fields_set),
            "recipe": self.recipe,
            "start": self.start,
        }
        if self.average is not None:
            content["weights_of_the_step"] = self.model.state_dict()
        checkpoint.save(self.last_path, content)

    def save_best(self) -> None:
        """Writes the checkpoint to use, without what only training needs; called by every process."""
        if self.processes.is_main:
            checkpoint.save(self.best_path, self._to_use(self.position.best))

    def _to_use(self, metrics: dict[str, float]) -> dict[str, Any]:
        return {
            "model": self.eval_model.state_dict(),
            "family": family_of(self.config.model).name,
            "model_name": self.config.model,
            "spec": dict(self.model.spec),
            "class_names": [category.name for category in self.categories],
            "category_ids": [category.id for category in self.categories],
            "image_size": self.config.image_size,
            "max_size": self.config.max_size,
            "metrics": dict(metrics),
            "operating_points": self.position.operating_points,
            "epoch": self.position.epoch,
            "config": self.config.model_dump(mode="json"),
            "data": self.data,
            "settings": settings_digest(self.config),
        }

    def resume(self, content: dict[str, Any]) -> None:
        """Takes up where the run that wrote `content` was."""
        self.model.load_state_dict(content.get("weights_of_the_step", content["model"]))
        if self.average is not None:
            self.average.resume(content["model"], content["position"]["step"])
        wanted = [{name: group[name] for name in _SETTINGS} for group in self.optimizer.param_groups]
        self.optimizer.load_state_dict(content["optimizer"])
        # What the optimizer has gathered comes from the file; what the user may change, from the user.
        for group, settings in zip(self.optimizer.param_groups, wanted, strict=True):
            group.update(settings)
        if content["scaler"]:
            self.scaler.load_state_dict(content["scaler"])
        self.position = Position(**content["position"])
        if content["config"]["epochs"] != self.config.epochs:
            # Whoever asks for other epochs wants them, whatever an earlier run made of its own.
            self.position.drop_epoch = self.position.end_epoch = None
        self.averages.load_state_dict(content["averages"])
        if self.processes.rank < len(content["rng"]):
            _set_random_state(content["rng"][self.processes.rank], self.device)


def _random_state(device: torch.device) -> dict[str, torch.Tensor]:
    """The state of the CPU's generator and of the device's own, which need not be the first GPU."""
    random = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        random["cuda"] = torch.cuda.get_rng_state(device)
    elif device.type == "mps":
        random["mps"] = torch.mps.get_rng_state()
    return random


def _set_random_state(random: dict[str, torch.Tensor], device: torch.device) -> None:
    """Sets what `_random_state` gave; a run that has moved to another kind of device starts its generator anew."""
    torch.set_rng_state(random["cpu"])
    if device.type == "cuda" and "cuda" in random:
        torch.cuda.set_rng_state(random["cuda"], device)
    elif device.type == "mps" and "mps" in random:
        torch.mps.set_rng_state(random["mps"])


def find_last(output_dir: Path) -> dict[str, Any] | None:
    """The checkpoint of an earlier run into the same folder; None when there is none.

    Raises:
        TrainerError: it is damaged, or not of a run.
    """
    content = checkpoint.read_last(output_dir)
    if content is None or {"position", "optimizer", "rng", "averages", "config", "category_ids"} <= set(content):
        return content
    path = checkpoint.last_path(output_dir)
    raise TrainerError(f"{path} is not a checkpoint that training can resume from{_remedy(output_dir)}")


def check_settings(earlier: dict[str, Any], config: TrainConfig, start: str | None) -> None:
    """Holds the settings of an earlier run against those that are given now; what is left out agrees with any.

    Args:
        earlier: the checkpoint of that run.
        config: as given now.
        start: `start_digest` of it.

    Raises:
        TrainerError: it was another model, or one of the settings that decide what is learned was another.
    """
    before, now = earlier["config"], config.model_dump(mode="json")
    names = ["model"] if now["model"] != before["model"] else sorted(config.model_fields_set - {*MAY_CHANGE})
    differences = [
        f"{name} {before[name]}, not {now[name]}" for name in names if now[name] != before.get(name, now[name])
    ]
    known = earlier.get("start")
    if known is not None and start is not None:
        # The bytes say what a path does not: the same place may hold another checkpoint by now.
        differences = [each for each in differences if not each.startswith("pretrained ")]
        if known != start:
            differences.append(f"weights to start from with the SHA-256 {known[:12]}, not {start[:12]}")
    if differences:
        path = checkpoint.last_path(config.output_dir)
        raise TrainerError(f"{path} was trained with {'; '.join(differences)}{_remedy(config.output_dir)}")
    done = earlier["position"]["epoch"]
    if config.epochs < done and "epochs" in config.model_fields_set:
        raise TrainerError(
            f"{config.output_dir} has {done} epochs already, not {config.epochs}{_remedy(config.output_dir)}"
        )


def check_data(earlier: dict[str, Any], config: TrainConfig, categories: list[Category], data: dict[str, str]) -> None:
    """Holds the dataset of an earlier run against the one that is there now.

    Args:
        earlier: the checkpoint of that run; one of an earlier version names no dataset.
        config: of the run now.
        categories: there are now.
        data: digests of the dataset now; see `RunState.data`.

    Raises:
        TrainerError: it is another one.
    """
    path, remedy = checkpoint.last_path(config.output_dir), _remedy(config.output_dir)
    classes = list(zip(earlier["category_ids"], earlier["class_names"], strict=True))
    if classes != [(category.id, category.name) for category in categories]:
        raise TrainerError(
            f"{path} was trained on classes {', '.join(earlier['class_names'])},"
            f" not {', '.join(category.name for category in categories)}{remedy}"
        )
    before = earlier.get("data", data)
    if before != data:
        raise TrainerError(
            f"{path} was trained on dataset {before['dataset'][:12]}, and {config.dataset_dir} holds"
            f" {data['dataset'][:12]}: images, boxes or split are others{remedy}"
        )


def start_digest(config: TrainConfig) -> str | None:
    """SHA-256 of the checkpoint that a run starts from; None where it starts from none, or that is gone."""
    file = checkpoint.find_checkpoint(config.pretrained) if config.pretrained else None
    return None if file is None else file_digest(file)


def settings_digest(config: TrainConfig) -> str:
    """SHA-256 of the settings that decide what is learned."""
    settings = config.model_dump(mode="json", exclude={*MAY_CHANGE})
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


def _remedy(output_dir: Path) -> str:
    best = checkpoint.best_path(output_dir)
    return f"; use another output folder (--checkpoint {best} starts from its weights), or remove {output_dir}"
