"""Write the trained model in a format that other software runs, and a card that describes it."""

import logging
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from steps.checkpoint import bring_checkpoint
from steps.common.errors import StepError
from steps.model_card import write_model_card
from steps.options import Bucket, Endpoint, Namespace, Region, choice
from steps.storage.config import StorageConfig

log = logging.getLogger(__name__)

TARGETS = ("onnx", "torchscript", "safetensors", "openvino")


def export_model(
    checkpoint: Annotated[
        str, typer.Option(help="The model: a checkpoint, a run's folder, an address or a key in the bucket.")
    ],
    export_dir: Annotated[Path, typer.Option(help="Folder for the exported files and model_card.md.")],
    to: Annotated[str, choice(TARGETS, help="Format.")] = "onnx",
    namespace: Namespace = "",
    bucket: Bucket = "",
    endpoint: Endpoint = "",
    region: Region = "",
) -> list[Path]:
    """Write `model` in a format's file or files, and `model_card.md`, into `export_dir`.

    Inputs and outputs are those of `trainer.export.graph.CONTRACT`; the files of safetensors hold the weights alone.

    Returns:
        The files, the one to open first.

    Raises:
        StepError: there is no such checkpoint, a package is missing, or the model cannot be exported so.
    """
    # Kept out of the module: listing the steps, or fetching in a slim pod, needs no torch.
    from trainer.checkpoint import read
    from trainer.errors import TrainerError
    from trainer.export.formats import export

    with tempfile.TemporaryDirectory() as scratch:
        config = StorageConfig.resolve(bucket=bucket, endpoint=endpoint, region=region)
        file = bring_checkpoint(checkpoint.strip(), namespace, config, Path(scratch))
        try:
            files = export(file, to, export_dir)
            content = read(file)
        except TrainerError as error:
            raise StepError(str(error)) from None
        card = Path(export_dir) / "model_card.md"
        # A run's folder has its figures two floors above; of one in a bucket, the checkpoint's have to do.
        write_model_card(card, content, file.parent.parent, [path.name for path in files])
    for path in [*files, card]:
        log.info("wrote %s", path)
    return [*files, card]
