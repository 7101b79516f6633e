"""Options that several steps share, declared once."""

from pathlib import Path
from typing import Annotated

import typer

from trainer.config import MODEL_NAMES as MODELS

DatasetDir = Annotated[Path, typer.Option(help="Folder of the dataset: the dump, then the prepared annotations.")]
OutputDir = Annotated[Path, typer.Option(help="Folder of what the run makes: checkpoints, logs, metrics, report.")]
Seed = Annotated[int, typer.Option(min=0, max=2**31 - 1, help="Seed of everything random: split, weights, order.")]

Namespace = Annotated[str, typer.Option(help="Namespace of the workflow; Onepanel keeps its objects under it.")]
Bucket = Annotated[
    str, typer.Option(help="Bucket, a name or gs://name, az://name. Empty: Onepanel's, else $S3_BUCKET.")
]
Endpoint = Annotated[
    str,
    typer.Option(help="Address of the S3 server. Empty: Onepanel's, else $AWS_ENDPOINT_URL_S3, else Amazon's."),
]
Region = Annotated[str, typer.Option(help="Region of the bucket. Empty: Onepanel's, else the AWS environment's.")]

Model = Annotated[str, typer.Option(help=f"Architecture: {', '.join(MODELS)}.")]


def _number_or_auto(value: str | int) -> int | None:
    if value == "auto":
        return None
    if not str(value).isascii() or not str(value).isdigit() or not int(value):
        raise ValueError(f"it is '{value}': give a whole number from 1, or 'auto'")
    return int(value)


BatchSize = Annotated[
    int | None,
    typer.Option(parser=_number_or_auto, metavar="N|auto", help="Images a step; auto: what the model and GPU ask for."),
]
Epochs = Annotated[
    int | None,
    typer.Option(
        parser=_number_or_auto,
        metavar="N|auto",
        help="Times that every training image is seen; auto: by the number of images.",
    ),
]
