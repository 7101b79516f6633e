"""Options that several steps share, declared once."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from trainer.errors import TrainerError
from trainer.models.choice import AUTO
from trainer.models.registry import family_of, model_names, model_patterns

MODELS = model_names()
MODEL_CHOICES = (AUTO, *MODELS)


def choice(names: Sequence[str], **more: Any) -> Any:
    """Declare an option that takes one of `names`; `more` is for `typer.Option`."""

    def check(value: str) -> str:
        if value not in names:
            raise ValueError(f"it is '{value}': give one of {', '.join(names)}")
        return value

    return typer.Option(parser=check, metavar=f"[{'|'.join(names)}]", **more)


def _model(value: str) -> str:
    try:
        if value != AUTO:
            family_of(value)
    except TrainerError as error:
        raise ValueError(str(error)) from None
    return value


def _number_or_auto(value: str | int) -> int | None:
    if value == "auto":
        return None
    if not str(value).isascii() or not str(value).isdigit() or not int(value):
        raise ValueError(f"it is '{value}': give a whole number from 1, or 'auto'")
    return int(value)


def _or_auto(text: str) -> Any:
    """Declare an option that takes a whole number from 1, or `auto`, which is None to the steps."""
    return typer.Option(parser=_number_or_auto, metavar="N|auto", show_default="auto", help=text)


def _folder(value: str) -> Path:
    # Python takes it for the current folder; mostly it is a variable of a shell that is not set.
    if not value.strip():
        raise ValueError("it is empty: give a folder")
    return Path(value)


_FOLDER: Any = {"parser": _folder, "metavar": "PATH"}

DatasetDir = Annotated[
    Path,
    typer.Option(**_FOLDER, help="Folder of the dataset: the dump, then the prepared annotations."),
]
OutputDir = Annotated[
    Path,
    typer.Option(**_FOLDER, help="Folder of the run's results: checkpoints, logs, metrics and the report."),
]
Seed = Annotated[
    int, typer.Option(min=0, max=2**31 - 1, metavar="N", help="Seed of the split, the initial weights and the order.")
]

Namespace = Annotated[
    str, typer.Option(help="Namespace of the workflow: a key that does not exist is looked up under it as well.")
]
Bucket = Annotated[
    str,
    typer.Option(
        help="Bucket: a name, or an address such as gs://name, az://name or file:///folder.",
        show_default="Onepanel's, else $S3_BUCKET",
    ),
]
Endpoint = Annotated[
    str,
    typer.Option(help="Address of the S3 server.", show_default="Onepanel's, else $AWS_ENDPOINT_URL_S3, else Amazon's"),
]
Region = Annotated[
    str, typer.Option(help="Region of the bucket.", show_default="Onepanel's, else the AWS environment's")
]

Series = Annotated[
    str,
    typer.Option(
        help="Where a series of runs leaves its latest model and what the last run was trained on: a key prefix in the"
        " bucket, or s3://bucket/prefix."
    ),
]
RunName = Annotated[str, typer.Option(help="Name of the run.", show_default="none")]
Model = Annotated[
    str,
    typer.Option(
        parser=_model,
        metavar="MODEL",
        help=f"Model: {', '.join(MODEL_CHOICES)}; or a published one: {', '.join(model_patterns())}."
        " auto: by what is there.",
    ),
]
BatchSize = Annotated[int | None, _or_auto("Images per step. auto: what suits the model and the GPU.")]
Processes = Annotated[
    int | None, _or_auto("Processes that train together, each on a GPU of its own. auto: one a GPU, one on a CPU.")
]
Epochs = Annotated[int | None, _or_auto("Number of epochs. auto: by the number of training images.")]
Hyperparameters = Annotated[
    str, typer.Option(help="More settings as YAML, one 'name: value' a line, such as 'lr: 0.0002'.")
]
TrainedModel = Annotated[
    str, typer.Option(help="The model: a checkpoint, a run's folder, an address or a key in the bucket.")
]
Checkpoint = Annotated[
    str, typer.Option(help="Checkpoint to start from: a key in the bucket, an address or a file. Empty: none.")
]
