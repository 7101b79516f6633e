"""The configuration of a training run: paths, model and hyperparameters, checked before torch is imported."""

from __future__ import annotations

import difflib
import json
import logging
import os
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model, field_validator, model_validator

from trainer.errors import TrainerError
from trainer.models.choice import AUTO, FALLBACK, NANO, ModelChoice, Published, Surroundings, choose_model
from trainer.models.registry import family_of, model_info

_log = logging.getLogger("trainer")

Recipe = Literal["auto", "paper"]
Augment = Literal["none", "light", "paper", "strong"]
Precision = Literal["auto", "fp32", "bf16", "fp16"]


def _backbone_rate(pretrained_rate: float) -> Callable[[dict[str, Any]], float]:
    """A backbone without pretrained weights has everything to learn, like the rest of the model."""

    def rate(data: dict[str, Any]) -> float:
        return float(data.get("lr", 1e-4)) if data.get("pretrained", "coco") is None else pretrained_rate

    return rate


class TrainConfig(BaseModel):
    """One training run: the settings that every model has. `config_class` adds those of the model's family.

    A field left out (or given as null) is set by the recipe from the size of the dataset (`trainer.training.recipe`);
    what the recipe leaves open, and with `recipe: paper` everything, takes the model's own default
    (`trainer.models.registry`), or else the one declared here, which is that of the DETR paper (AdamW, lr 1e-4 and
    1e-5 for the backbone, weight decay 1e-4, 300 epochs with a tenfold drop at two thirds, clip 0.1; section 4 and
    appendix A.4 of arXiv 2005.12872). `model_fields_set` tells what was given.

    Raises:
        pydantic.ValidationError: a field is unknown or out of range. `TrainConfig.create` turns that into
            a one-line `TrainerError`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False)

    dataset_dir: Path = Field(description="Folder with annotations/instances_train.json and instances_val.json")
    output_dir: Path = Field(description="Folder for checkpoints/, log.jsonl, train.json and tensorboard/")
    images_root: Path | None = Field(None, description="Folder that file_name is relative to; default: dataset_dir")

    model: str = Field(AUTO, description="Name of the model; auto: by what is there")
    model_reason: str = Field("", description="Why `auto` chose the model; set by the program")
    recipe: Recipe = Field("auto", description="auto: settings not given follow the size of the dataset")
    pretrained: str | None = Field(
        "coco", description="Initial weights: coco, imagenet, published (of hf: models), none, or a checkpoint's path"
    )

    epochs: int = Field(300, ge=1, description="Number of epochs")
    batch_size: int = Field(2, ge=1, description="Images per step and process")
    accumulate: int = Field(
        1,
        ge=1,
        description="Parts a batch is computed in, to save memory; batch normalisation, where it trains, sees a part",
    )
    lr: float = Field(1e-4, gt=0, description="Learning rate")
    lr_backbone: float = Field(
        default_factory=_backbone_rate(1e-5), ge=0, description="Learning rate of the backbone; 0 freezes it"
    )
    weight_decay: float = Field(1e-4, ge=0, description="Weight decay of AdamW")
    warmup_steps: int = Field(0, ge=0, description="Steps over which the learning rates rise from 0")
    lr_drop: int | None = Field(
        None, ge=1, description="Epoch after which the learning rates drop tenfold; default: lr_drop_at of the epochs"
    )
    lr_drop_at: float = Field(
        2 / 3, gt=0, le=1, description="Share of the epochs before the learning rates drop; 1: never"
    )
    clip_max_norm: float = Field(0.1, ge=0, description="Maximum gradient norm; 0 disables clipping")
    ema_decay: float = Field(0, ge=0, lt=1, description="Decay of the averaged weights (EMA); 0 disables averaging")
    patience: int = Field(
        0, ge=0, description="Validations without progress before the rates drop early and then the run ends; 0: never"
    )

    image_size: int = Field(800, ge=32, description="Length of an image's shorter side in px")
    max_size: int = Field(1333, ge=32, description="Maximum length of the longer side in px")
    augment: Augment = Field("paper", description="Strength of the augmentation")

    seed: int = Field(0, ge=0, lt=2**32, description="Random seed")
    workers: int | Literal["auto"] = Field("auto", description="Processes that load images; 0: load in the main one")
    device: str = Field("auto", pattern=r"^(auto|cpu|cuda(:\d+)?|mps)$", description="Device to train on")
    precision: Precision = Field("auto", description="Precision of the network; auto: bf16 or fp16 on a GPU")
    eval_every: int = Field(1, ge=1, description="Epochs between validations; the last epoch is always validated")
    checkpoint_every: int = Field(1, ge=1, description="Epochs between writes of last.pth")
    log_seconds: float = Field(10, gt=0, description="Seconds between progress lines")

    @model_validator(mode="before")
    @classmethod
    def _leave_out_nulls(cls, given: Any) -> Any:
        # A null in YAML means "not given", except where it says "no pretrained weights".
        if not isinstance(given, Mapping):
            return given
        return {key: value for key, value in given.items() if value is not None or key == "pretrained"}

    @field_validator("augment", mode="before")
    @classmethod
    def _augment_as_yes_or_no(cls, value: Any) -> Any:
        return {True: "paper", False: "none"}[value] if isinstance(value, bool) else value

    @field_validator("workers", mode="after")
    @classmethod
    def _workers_within_bounds(cls, value: int | str) -> int | str:
        if isinstance(value, int) and not 0 <= value <= 1024:
            raise ValueError("it must be auto, or from 0 to 1024")
        return value

    @field_validator("pretrained", mode="before")
    @classmethod
    def _none_in_words(cls, value: Any) -> Any:
        if _is_none(value):
            return None
        return str(value) if isinstance(value, Path) else value

    @model_validator(mode="after")
    def _sizes_agree(self) -> TrainConfig:
        if self.max_size < self.image_size:
            raise ValueError(f"max_size {self.max_size} is below image_size {self.image_size}")
        if self.accumulate > self.batch_size:
            raise ValueError(f"accumulate {self.accumulate} is above batch_size {self.batch_size}")
        return self

    @property
    def family_settings(self) -> dict[str, Any]:
        """The settings of the model's family, as plain values."""
        return {name: getattr(self, name) for name in family_of(self.model).settings.model_fields}

    @property
    def drop_epoch(self) -> int:
        """Number of epochs at the full learning rate; that of all epochs where the rates never drop."""
        if self.lr_drop is not None:
            return min(self.lr_drop, self.epochs)
        # Rounding must not swallow the end at the low rate.
        last = self.epochs - 1 if self.lr_drop_at < 1 else self.epochs
        return max(1, min(last, round(self.epochs * self.lr_drop_at)))

    @classmethod
    def create(cls, hyperparameters: Mapping[str, Any] | None = None, **fields: Any) -> TrainConfig:
        """Builds a configuration from named fields, with a dict of hyperparameters laid over them.

        Args:
            hyperparameters: what the user wrote in YAML; wins over `fields`. It cannot set the paths.
            fields: any field of the configuration; None means "not given".

        Raises:
            TrainerError: one line that names the field, what was given and, for a misspelt name, the
                closest known ones.
        """
        if hyperparameters is not None and not isinstance(hyperparameters, Mapping):
            raise TrainerError(f"hyperparameters: expected a mapping of names to values, got {hyperparameters!r}")
        changes = dict(hyperparameters or {})
        for key in changes:
            if key in NOT_FOR_USERS:
                raise TrainerError(f"hyperparameter '{key}' is set by the program; remove it")
        given = {key: value for key, value in fields.items() if value is not None}
        given = _with_model({**given, **changes})
        known = config_class(given["model"]).model_fields
        for key in changes:
            if key not in known:
                chosen = f"; `auto` chose {given['model']}: name the model" if "model_reason" in given else ""
                raise TrainerError(_unknown("hyperparameter", str(key), known) + chosen)
        return parse(given)


def _is_none(pretrained: Any) -> bool:
    """Whether the field says "no pretrained weights", in YAML or in words."""
    return pretrained is None or str(pretrained).strip().lower() in ("", "none", "null", "false")


NOT_FOR_USERS = ("dataset_dir", "output_dir", "images_root", "model_reason")
"""Fields that are no hyperparameters: the steps give them, or the program does."""
MAY_CHANGE = (
    *NOT_FOR_USERS,
    *("epochs", "patience", "eval_every", "checkpoint_every", "log_seconds"),
    *("device", "workers", "precision", "accumulate"),
)
"""Fields that a run may be resumed with other values of: how long it lasts and where it is computed, not what is
learned."""
_CLASSES: dict[str, type[TrainConfig]] = {}


def config_class(model: str | None = None) -> type[TrainConfig]:
    """`TrainConfig` with a model's defaults and the settings of its family, in one flat namespace.

    Args:
        model: None for the one that every machine can train.

    Raises:
        TrainerError: no model has that name.
    """
    model = str(model or FALLBACK)
    if model not in _CLASSES:
        try:
            family, info = family_of(model), model_info(model)
        except TrainerError as error:
            raise TrainerError(f"field 'model': {error}") from None
        declared = {**family.settings.model_fields, **TrainConfig.model_fields}
        changed: dict[str, Any] = {
            "model": (str, Field(model, description=TrainConfig.model_fields["model"].description))
        }
        for name, value in info.defaults.items():
            field = declared[name]
            kind: Any = field.annotation
            for constraint in field.metadata:
                kind = Annotated[kind, constraint]
            default = {"default": value}
            if name == "lr_backbone":
                default = {"default_factory": _backbone_rate(value)}
            changed[name] = (kind, Field(**default, description=field.description))
        # The run's fields come first, which the default of `lr_backbone` relies on.
        bases: Any = (family.settings, TrainConfig)
        _CLASSES[model] = create_model("TrainConfig", __base__=bases, **changed)
    return _CLASSES[model]


def parse(given: Mapping[str, Any]) -> TrainConfig:
    """Validates a plain mapping of fields; `model: auto`, or none, becomes the name of a model.

    Raises:
        TrainerError: the first thing that is wrong, in one line.
    """
    given = _with_model(given)
    kind = config_class(given["model"])
    try:
        return kind.model_validate(given)
    except ValidationError as error:
        raise TrainerError(_in_one_line(error, kind.model_fields)) from None


CHOICE = "model_choice.json"
"""File in a run's folder: which model `auto` is in this run, and why."""


def _with_model(given: Mapping[str, Any]) -> dict[str, Any]:
    """The fields with a model named: that of the run that is resumed or of the checkpoint to start from, or a choice.

    So `auto` never changes the model between two attempts at one run, whatever machine the second one is on and
    whether or not it reaches the hub.
    """
    if given.get("model") not in (None, "", AUTO):
        return dict(given)
    chosen = _model_of_checkpoint(given) or _choice_of_run(given)
    return {**given, "model": chosen.model, "model_reason": chosen.reason}


def _choice_of_run(given: Mapping[str, Any]) -> ModelChoice:
    """What was chosen when this run was first started, be it now."""
    file = Path(given["output_dir"]) / CHOICE if given.get("output_dir") else None
    if file is None or not file.is_file():
        chosen = _choose(given)
        if file is None or not _train_file(given).is_file():  # No run starts like this.
            return chosen
        file.parent.mkdir(parents=True, exist_ok=True)
        mine = file.with_name(f".{CHOICE}.{os.getpid()}.{threading.get_ident()}")
        mine.write_text(json.dumps(asdict(chosen)) + "\n", encoding="utf-8")
        # Of processes that start together, and may see different things, the first one decides.
        try:
            os.link(mine, file)
        except FileExistsError:
            pass
        except OSError:  # A file system without links.
            os.replace(mine, file)
        mine.unlink(missing_ok=True)
    try:
        return ModelChoice(**json.loads(file.read_text(encoding="utf-8")))
    except (ValueError, TypeError):
        raise TrainerError(f"{file} is damaged; delete it, or name the model") from None


def _choose(given: Mapping[str, Any]) -> ModelChoice:
    if given.get("pretrained", "published") != "published":
        return ModelChoice(
            FALLBACK, f"pretrained is {given['pretrained'] or 'none'}, which published models do not start from"
        )
    own = given.keys() - config_class(NANO.model).model_fields.keys()
    if own and own <= config_class(FALLBACK).model_fields.keys():
        return ModelChoice(FALLBACK, f"published models have no {' and no '.join(sorted(own))}")
    return choose_model(_surroundings(given), _obtain)


def _train_file(given: Mapping[str, Any]) -> Path:
    """The training set's annotations, also where there are none."""
    from trainer.data.coco_dataset import annotation_file

    return annotation_file(Path(given.get("dataset_dir") or ""), "train")


def _obtain(published: Published) -> str | None:
    from trainer.models.hf.family import PREFIX
    from trainer.models.hf.source import obtain

    _log.info(
        "model auto: %s (%d MB, %s) is wanted; a model's name, or HF_HUB_OFFLINE=1, keeps it from being downloaded",
        published.model,
        published.megabytes,
        published.license,
    )
    return obtain(published.model.removeprefix(PREFIX))


def _model_of_checkpoint(given: Mapping[str, Any]) -> ModelChoice | None:
    # Deferred: reading a checkpoint takes torch, which listing settings does not.
    from trainer import checkpoint

    start = given.get("pretrained")
    last = checkpoint.read_last(Path(given["output_dir"])) if "output_dir" in given else None
    file = None if last or _is_none(start) else checkpoint.find_checkpoint(str(start))
    content = last or ({} if file is None else checkpoint.read(file))
    described = checkpoint.model_in(content)
    if described is None:
        return None
    before = content.get("config", {})
    if last and before.get("model_reason"):
        return ModelChoice(before["model"], before["model_reason"])
    wrote = file or checkpoint.last_path(Path(given["output_dir"]))
    with checkpoint.using(wrote):
        return ModelChoice(described[1]["model"], f"the run that wrote {wrote} trained it")


def _surroundings(given: Mapping[str, Any]) -> Surroundings:
    import torch

    from trainer.data.coco_dataset import read_coco

    file = _train_file(given)
    coco = read_coco(file) if file.is_file() else {"images": [], "annotations": []}
    # What the file lacks, or says wrongly, is told when the dataset is opened.
    sides = [min(image["width"], image["height"]) for image in coco["images"] if {"width", "height"} <= image.keys()]
    boxes = Counter(box.get("image_id") for box in coco["annotations"])
    wanted = str(given.get("device") or "auto")
    there = (wanted == "auto" or wanted.startswith("cuda")) and torch.cuda.is_available()
    return Surroundings(
        gpu=torch.cuda.get_device_name() if there else None,
        gpu_memory=torch.cuda.get_device_properties().total_memory / 1e9 if there else None,
        shorter_side=median(sides) if sides else None,
        most_boxes=max(boxes.values(), default=None),
    )


def _in_one_line(error: ValidationError, known: Mapping[str, Any]) -> str:
    """The first complaint, with the field's name, the value and the reason."""
    first = error.errors(include_url=False)[0]
    field = str(first["loc"][0]) if first["loc"] else ""
    if first["type"] == "extra_forbidden":
        return _unknown("field", field, known)
    if first["type"] == "missing":
        return f"field '{field}' is missing"
    reason = first["msg"].removeprefix("Value error, ")
    reason = reason[:1].lower() + reason[1:]
    if not field:
        return " ".join(reason.split())
    if field == "device":
        reason = "it can be auto, cpu, cuda, cuda:N or mps"
    return " ".join(f"field '{field}' is {first['input']!r}: {reason}".split())


def _unknown(kind: str, name: str, known: Mapping[str, Any]) -> str:
    """A line about a name that is not a field, with the closest that are."""
    settable = [field for field in known if field not in NOT_FOR_USERS]
    close = difflib.get_close_matches(name, settable, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(close)}?" if close else f"known are {', '.join(settable)}"
    return f"unknown {kind} '{name}'; {hint}"
