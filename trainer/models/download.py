"""Weights that are published under an address of their own."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import torch

from trainer.errors import TrainerError


def download(url: str) -> dict[str, Any]:
    """What torch hub keeps under the address's file name, fetched when it is not there yet.

    Raises:
        TrainerError: it is not there and cannot be fetched.
    """
    file = Path(torch.hub.get_dir()) / "checkpoints" / Path(urlparse(url).path).name
    try:
        content = torch.hub.load_state_dict_from_url(
            url, map_location="cpu", check_hash=True, progress=False, weights_only=True
        )
    except (OSError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise TrainerError(f"cannot get {url} ({reason}); put that file at {file}, or set pretrained to none") from None
    return dict(content)
