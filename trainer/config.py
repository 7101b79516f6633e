"""What a training run is told: paths, model and hyperparameters, checked before torch is imported."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from trainer.errors import TrainerError

Recipe = Literal["auto", "paper"]
Augment = Literal["none", "light", "paper", "strong"]
Precision = Literal["auto", "fp32", "bf16", "fp16"]
ModelName = Literal[
    "detr_tiny", "detr_lite0", "detr_resnet50", "detr_resnet50_dc5", "detr_resnet101", "detr_resnet101_dc5"
]
MODEL_NAMES: tuple[str, ...] = get_args(ModelName)

# What a model wants instead of the field defaults below, where neither the user nor the recipe says anything.
# The field defaults are the paper's (section 4 and appendix A.4). The tiny model starts from random weights, so
# its backbone learns as fast as its transformer, and it sees small images in large batches. The light one is
# for some hundred photographs and a CPU: a backbone that knows ImageNet, at a size that keeps a step below a second.
MODEL_DEFAULTS: dict[str, dict[str, Any]] = {
    "detr_tiny": {
        "pretrained": None,
        "epochs": 40,
        "batch_size": 16,
        "lr": 5e-4,
        "warmup_steps": 50,
        "lr_drop_at": 0.85,
        "num_queries": 20,
        "dropout": 0.0,
        "image_size": 64,
        "max_size": 128,
        "augment": "light",
    },
    "detr_lite0": {
        "pretrained": "imagenet",
        "epochs": 50,
        "batch_size": 4,
        "lr": 6e-4,
        "lr_backbone": 1e-4,
        "warmup_steps": 50,
        "lr_drop_at": 0.8,
        "dropout": 0.0,
        "image_size": 256,
        "max_size": 448,
        # The paper's crops and scales, made for 800 px, would leave few pixels of small objects.
        "augment": "light",
    },
}


def _of_model(name: str, paper: Any, **constraints: Any) -> Any:
    """A field whose default is the model's own, or else the paper's."""
    return Field(default_factory=lambda data: MODEL_DEFAULTS.get(data.get("model"), {}).get(name, paper), **constraints)


def _backbone_rate(data: dict[str, Any]) -> float:
    """A backbone without pretrained weights has everything to learn, like the rest of the model."""
    if data.get("pretrained", "coco") is None:
        return float(data.get("lr", 1e-4))
    return float(MODEL_DEFAULTS.get(data.get("model", ""), {}).get("lr_backbone", 1e-5))


class TrainConfig(BaseModel):
    """One training run of a DETR.

    A field left out (or given as null) is for the recipe to choose by the size of the dataset
    (`trainer.training.recipe`); what the recipe has no opinion on, and with `recipe: paper` everything, takes the
    model's own default: for the R50 and R101 models those of the paper (AdamW, lr 1e-4 and 1e-5 for the backbone,
    weight decay 1e-4, 300 epochs with a tenfold drop at two thirds, clip 0.1; section 4 and appendix A.4 of arXiv
    2005.12872), starting from the weights that the authors trained on COCO; for the small models those in
    `MODEL_DEFAULTS`. `model_fields_set` tells what was given.

    Raises:
        pydantic.ValidationError: a field is unknown or out of range. `TrainConfig.create` turns that into
            a one-line `TrainerError`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)

    dataset_dir: Path = Field(description="holds annotations/instances_train.json and instances_val.json")
    output_dir: Path = Field(description="receives checkpoints/, log.jsonl, train.json and tensorboard/")
    images_root: Path | None = Field(None, description="where relative file_name entries start; default dataset_dir")

    model: ModelName = "detr_resnet50"
    recipe: Recipe = Field("auto", description="auto: what is not given follows the size of the dataset")
    pretrained: str | None = _of_model("pretrained", "coco", description="coco, imagenet, none, or a checkpoint's path")
    num_queries: int = _of_model("num_queries", 100, ge=1, description="the most objects one image can be given")
    dropout: float = _of_model("dropout", 0.1, ge=0, lt=1)
    aux_loss: bool = Field(True, description="a loss on every decoder layer, not only on the last")

    # The transformer's sizes; null is the model's own (`trainer.models.detr.architectures`). Other than those,
    # weights of the authors do not fit.
    hidden_dim: int | None = Field(None, ge=8, description="width of the transformer")
    nheads: int | None = Field(None, ge=1, description="attention heads; divides hidden_dim")
    enc_layers: int | None = Field(None, ge=0)
    dec_layers: int | None = Field(None, ge=1)
    dim_feedforward: int | None = Field(None, ge=1)
    pre_norm: bool | None = Field(None, description="normalise before each sub-layer rather than after it")
    position_embedding: Literal["sine", "learned"] | None = Field(None, description="of the feature cells")

    epochs: int = _of_model("epochs", 300, ge=1)
    batch_size: int = _of_model("batch_size", 2, ge=1, description="images a step and process")
    accumulate: int = Field(1, ge=1, description="parts in which a batch is computed: memory of one, result of all")
    lr: float = _of_model("lr", 1e-4, gt=0)
    lr_backbone: float = Field(default_factory=_backbone_rate, ge=0, description="0 freezes the backbone")
    weight_decay: float = Field(1e-4, ge=0)
    warmup_steps: int = _of_model("warmup_steps", 0, ge=0, description="steps over which both rates rise from 0")
    lr_drop: int | None = Field(
        None, ge=1, description="epoch after which both rates fall tenfold; default lr_drop_at of epochs"
    )
    lr_drop_at: float = _of_model("lr_drop_at", 2 / 3, gt=0, le=1, description="share of the epochs before the drop")
    clip_max_norm: float = Field(0.1, ge=0, description="gradient norm to clip at; 0 never clips")
    ema_decay: float = Field(
        0, ge=0, lt=1, description="a step's share that the averaged weights keep of themselves; 0 averages nothing"
    )
    patience: int = Field(
        0, ge=0, description="validations without progress until the rates fall early, and then until the end; 0: never"
    )

    ce_loss_coef: float = Field(1, ge=0)
    bbox_loss_coef: float = Field(5, ge=0)
    giou_loss_coef: float = Field(2, ge=0)
    eos_coef: float = Field(0.1, ge=0, le=1, description="class weight of 'no object'")
    set_cost_class: float = Field(1, ge=0)
    set_cost_bbox: float = Field(5, ge=0)
    set_cost_giou: float = Field(2, ge=0)

    image_size: int = _of_model("image_size", 800, ge=32, description="px of the shorter side when predicting")
    max_size: int = _of_model("max_size", 1333, ge=32, description="px that the longer side never exceeds")
    augment: Augment = _of_model("augment", "paper", description="how much the training images are varied")

    seed: int = Field(0, ge=0, lt=2**32)
    workers: int | Literal["auto"] = Field("auto", description="processes that load images; 0 loads in this one")
    device: str = Field("auto", pattern=r"^(auto|cpu|cuda(:\d+)?|mps)$")
    precision: Precision = Field("auto", description="arithmetic of the network; auto: bf16 or fp16 on a GPU")
    eval_every: int = Field(1, ge=1, description="epochs between validations; the last epoch always is")
    checkpoint_every: int = Field(1, ge=1, description="epochs between writes of last.pth")
    log_seconds: float = Field(10, gt=0, description="seconds between progress lines")

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
    def _workers_not_negative(cls, value: int | str) -> int | str:
        if isinstance(value, int) and value < 0:
            raise ValueError("it can be auto or a number from 0")
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
        if self.set_cost_class == self.set_cost_bbox == self.set_cost_giou == 0:
            raise ValueError("set_cost_class, set_cost_bbox and set_cost_giou cannot all be 0")
        if self.accumulate > self.batch_size:
            raise ValueError(f"accumulate {self.accumulate} is above batch_size {self.batch_size}")
        return self

    @property
    def drop_epoch(self) -> int:
        """Number of epochs at the full learning rate."""
        return self.lr_drop if self.lr_drop is not None else max(1, round(self.epochs * self.lr_drop_at))

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
            raise TrainerError(f"hyperparameters must be a mapping of names to values, not {hyperparameters!r}")
        given = {key: value for key, value in fields.items() if value is not None}
        for key, value in (hyperparameters or {}).items():
            if key in _PATH_FIELDS:
                raise TrainerError(f"hyperparameter '{key}' is set by the pipeline; remove it")
            if key not in cls.model_fields:
                raise TrainerError(_unknown("hyperparameter", str(key)))
            given[key] = value
        return parse(given)


def _is_none(pretrained: Any) -> bool:
    """Whether the field says "no pretrained weights", in YAML or in words."""
    return pretrained is None or str(pretrained).strip().lower() in ("", "none", "null", "false")


SIZES = ("hidden_dim", "nheads", "enc_layers", "dec_layers", "dim_feedforward", "pre_norm", "position_embedding")
"""Fields that change the architecture behind a model's name."""
_PATH_FIELDS = ("dataset_dir", "output_dir", "images_root")


def parse(given: Mapping[str, Any]) -> TrainConfig:
    """Validates a plain mapping of fields.

    Raises:
        TrainerError: the first thing that is wrong, in one line.
    """
    try:
        return TrainConfig.model_validate(dict(given))
    except ValidationError as error:
        raise TrainerError(_in_one_line(error)) from None


def _in_one_line(error: ValidationError) -> str:
    """The first complaint, with the field's name, the value and the reason."""
    first = error.errors(include_url=False)[0]
    field = str(first["loc"][0]) if first["loc"] else ""
    if first["type"] == "extra_forbidden":
        return _unknown("field", field)
    if first["type"] == "missing":
        return f"field '{field}' is missing"
    reason = first["msg"].removeprefix("Value error, ")
    reason = reason[:1].lower() + reason[1:]
    if not field:
        return " ".join(reason.split())
    if field == "model":
        close = difflib.get_close_matches(str(first["input"]), MODEL_NAMES, n=1)
        hint = f" (did you mean {close[0]}?)" if close else ""
        return f"field 'model' is {first['input']!r}; it can be {', '.join(MODEL_NAMES)}{hint}"
    if field == "device":
        reason = "it can be auto, cpu, cuda, cuda:N or mps"
    return " ".join(f"field '{field}' is {first['input']!r}: {reason}".split())


def _unknown(kind: str, name: str) -> str:
    """A line about a name that is not a field, with the closest that are."""
    settable = [field for field in TrainConfig.model_fields if field not in _PATH_FIELDS]
    close = difflib.get_close_matches(name, settable, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(close)}?" if close else f"the known ones are {', '.join(settable)}"
    return f"unknown {kind} '{name}'; {hint}"
