"""Everything that a run cut off at any step needs to resume as if nothing had happened."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch.optim import Optimizer

from trainer import checkpoint
from trainer.config import TrainConfig
from trainer.data.coco_dataset import Category
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
        return _last(self.config.output_dir)

    @property
    def best_path(self) -> Path:
        """The checkpoint to use."""
        return self.config.output_dir / "checkpoints" / "best.pth"

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
    path = _last(output_dir)
    if not path.is_file():
        return None
    content = checkpoint.read(path)
    if not {"position", "optimizer", "rng", "averages", "config", "category_ids"} <= set(content):
        raise TrainerError(f"{path} is not a checkpoint that training can resume from{_remedy(path)}")
    return content


def check_same_run(content: dict[str, Any], config: TrainConfig, categories: list[Category]) -> None:
    """Holds the checkpoint of an earlier run against what is to be trained now.

    Raises:
        TrainerError: it is of another model or other classes.
    """
    path = _last(config.output_dir)
    remedy = _remedy(path)
    before, now = content["config"], config.model_dump(mode="json")
    if before["model"] != now["model"]:
        raise TrainerError(f"{path} was trained with model {before['model']}, not {now['model']}{remedy}")
    before, now = _must_agree(before), _must_agree(now)
    for name, value in now.items():
        # A setting that did not exist then had no other value.
        if before.get(name, value) != value:
            raise TrainerError(f"{path} was trained with {name} {before[name]}, not {value}{remedy}")
    classes = list(zip(content["category_ids"], content["class_names"], strict=True))
    if classes != [(category.id, category.name) for category in categories]:
        raise TrainerError(
            f"{path} was trained on classes {', '.join(content['class_names'])},"
            f" not {', '.join(category.name for category in categories)}{remedy}"
        )


def _last(output_dir: Path) -> Path:
    return output_dir / "checkpoints" / "last.pth"


def _remedy(path: Path) -> str:
    return f"; use another output_dir, or delete {path}"


def _must_agree(config: dict[str, Any]) -> dict[str, Any]:
    """What decides which weights there are and which of them train; other fields may change on the way."""
    frozen = "frozen" if config["lr_backbone"] == 0 else "trained"
    family = family_of(config["model"])
    fixed = ("pretrained", *(name for name in family.settings.model_fields if name not in family.may_change))
    return {**{name: config[name] for name in fixed if name in config}, "backbone": frozen}
