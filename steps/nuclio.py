"""Write a trained model as a nuclio function for the "AI tools" menu of a self-hosted CVAT."""

import logging
from pathlib import Path
from typing import Annotated

import typer

log = logging.getLogger(__name__)


def write_function(
    checkpoint: Annotated[str, typer.Option(help="Checkpoint of the model: a file, or the folder of a run.")],
    output: Annotated[Path, typer.Option(help="Folder for function.yaml, main.py and the model.")],
    name: Annotated[str, typer.Option(help="Name of the function in CVAT's menu.")] = "DETR",
) -> Path:
    """Write `function.yaml`, `main.py` and `model.pth`, and say how the function is deployed.

    Returns:
        The folder.

    Raises:
        StepError: there is no such checkpoint, or the name is unsuitable.
    """
    # Kept out of the module: listing the commands needs no torch.
    from steps.cvat.nuclio import write_nuclio
    from steps.cvat.opening import open_checkpoint

    path, detector = open_checkpoint(checkpoint, device="cpu")
    write_nuclio(path, detector.class_names, output, name)
    log.info("deploy it: nuctl deploy --project-name cvat --path %s --platform local", output)
    return output
