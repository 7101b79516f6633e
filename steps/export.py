"""Write the trained model in a format that other software runs, and a card that describes it."""

import logging
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from steps.checkpoint import bring_checkpoint
from steps.common.errors import StepError
from steps.model_card import write_model_card
from steps.options import Bucket, Endpoint, Namespace, Region, TrainedModel, choice
from steps.storage.config import StorageConfig

log = logging.getLogger(__name__)

NUCLIO = "nuclio"
TARGETS = ("onnx", "torchscript", "safetensors", "openvino", NUCLIO)


def export_model(
    checkpoint: TrainedModel,
    export_dir: Annotated[Path, typer.Option(help="Folder for the exported files and model_card.md.")],
    to: Annotated[
        str, choice(TARGETS, help=f"Format; {NUCLIO}: a function for the AI tools of a self-hosted CVAT.")
    ] = "onnx",
    name: Annotated[str, typer.Option(help="Name of the function in CVAT's menu.")] = "DETR",
    namespace: Namespace = "",
    bucket: Bucket = "",
    endpoint: Endpoint = "",
    region: Region = "",
) -> list[Path]:
    """Write `model` in a format's file or files, and `model_card.md`, into `export_dir`.

    Inputs and outputs are those of `trainer.export.graph.CONTRACT`; the files of safetensors hold the weights alone. Of
    a nuclio function the files are `function.yaml`, `main.py` and `model.pth`.

    Returns:
        The files, the one to open first.

    Raises:
        StepError: there is no such checkpoint, a package is missing, the model cannot be exported so, or the name of a
            function has neither letters nor digits.
    """
    # Kept out of the module: listing the steps, or fetching in a slim pod, needs no torch.
    from steps.cvat.nuclio import write_nuclio
    from trainer.checkpoint import read
    from trainer.errors import TrainerError
    from trainer.export.formats import export

    with tempfile.TemporaryDirectory() as scratch:
        config = StorageConfig.resolve(bucket=bucket, endpoint=endpoint, region=region)
        file = bring_checkpoint(checkpoint.strip(), namespace, config, Path(scratch))
        try:
            content = read(file)
            if to == NUCLIO:
                files = write_nuclio(file, content["class_names"], Path(export_dir), name)
            else:
                files = export(file, to, export_dir)
        except TrainerError as error:
            raise StepError(str(error)) from None
        card = Path(export_dir) / "model_card.md"
        # A run's folder has its figures two floors above; of one in a bucket, the checkpoint's have to do.
        write_model_card(card, content, file.parent.parent, [path.name for path in files])
    for path in [*files, card]:
        log.info("wrote %s", path)
    if to == NUCLIO:
        log.info("deploy it: nuctl deploy --project-name cvat --path %s --platform local", export_dir)
    return [*files, card]
