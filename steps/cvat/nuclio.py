"""A trained detector as a nuclio function, which a self-hosted CVAT offers in its "AI tools" menu.

Source: docs.cvat.ai/docs/manual/advanced/serverless-tutorial, and `serverless/` of CVAT's repository.
"""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import yaml

from steps.common.errors import StepError
from steps.common.files import replacing
from steps.cvat import nuclio_handler

SOURCE = "git+https://github.com/cvat-detr/cvat-detr"
BASE_IMAGE = "pytorch/pytorch:2.7.1-cuda12.6-cudnn9-runtime"


def write_nuclio(checkpoint: Path, classes: list[str], folder: Path, name: str) -> list[Path]:
    """Write `function.yaml`, `main.py` and the model into a folder that `nuctl deploy` takes.

    Args:
        checkpoint: the model's file.
        classes: names by label.
        folder: which need not exist.
        name: of the function, as CVAT's menu shows it.

    Returns:
        The files, the one to open first.

    Raises:
        StepError: the name has no letter or digit.
    """
    short = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:50].strip("-")
    if not short:
        raise StepError(f"--name '{name}' has no letter or digit: a function of nuclio's needs some")
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(folder / nuclio_handler.CHECKPOINT) as unfinished:
        shutil.copyfile(checkpoint, unfinished)
    # What CVAT reads of a function lies in its annotations; `spec` is JSON in a string.
    labels = [{"id": label, "name": each, "type": "rectangle"} for label, each in enumerate(classes)]
    function: dict[str, Any] = {
        "metadata": {
            "name": f"cvat-detr-{short}",
            "namespace": "cvat",
            "annotations": {"name": name, "type": "detector", "spec": json.dumps(labels, ensure_ascii=False)},
        },
        "spec": {
            "description": f"{name}, trained with cvat-detr",
            "runtime": "python:3.11",
            "handler": "main:handler",
            "eventTimeout": "60s",
            "build": {
                "image": f"cvat.cvat-detr-{short}",
                "baseImage": BASE_IMAGE,
                "directives": {
                    "preCopy": [
                        {"kind": "RUN", "value": "apt-get update && apt-get install --yes git"},
                        {"kind": "RUN", "value": f"pip install --no-cache-dir 'cvat-detr[train,hf] @ {SOURCE}'"},
                    ]
                },
            },
            "triggers": {
                "myHttpTrigger": {
                    "numWorkers": 1,
                    "kind": "http",
                    "workerAvailabilityTimeoutMilliseconds": 10000,
                    "attributes": {"maxRequestBodySize": 33554432},
                }
            },
            "platform": {"attributes": {"restartPolicy": {"name": "always", "maximumRetryCount": 3}}},
        },
    }
    with replacing(folder / "main.py") as unfinished:
        shutil.copyfile(nuclio_handler.__file__, unfinished)
    with replacing(folder / "function.yaml") as unfinished:
        unfinished.write_text(yaml.safe_dump(function, sort_keys=False, allow_unicode=True), encoding="utf-8")
    return [folder / file for file in ("function.yaml", "main.py", nuclio_handler.CHECKPOINT)]
