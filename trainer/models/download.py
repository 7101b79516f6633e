"""Weights that are published under an address of their own."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlparse

import torch

from trainer.errors import PassingError, TrainerError

STALL_SECONDS = 30.0
"""A download of which no byte came for so long is given up and tried again, however long others take."""
RETRY_SECONDS = 120.0
"""For how long what may pass is tried again, from the first failure on."""


def download(url: str) -> dict[str, Any]:
    """What torch hub keeps under the address's file name, fetched when it is not there yet.

    Raises:
        PassingError: it is not there, and the server failed or did not answer for `RETRY_SECONDS`.
        TrainerError: it is not there and cannot be fetched.
    """
    file = Path(torch.hub.get_dir()) / "checkpoints" / Path(urlparse(url).path).name
    until, delay = 0.0, 1.0
    while True:
        try:
            with _stalls_end():
                content = torch.hub.load_state_dict_from_url(
                    url, map_location="cpu", check_hash=True, progress=False, weights_only=True
                )
            return dict(content)
        except (OSError, HTTPException, RuntimeError) as error:
            until = until or time.monotonic() + RETRY_SECONDS
            passing = _may_pass(error, file)
            if not passing or time.monotonic() + delay > until:
                reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
                raise (PassingError if passing else TrainerError)(
                    f"cannot get {url} ({reason}); put that file at {file}, or set pretrained to none"
                ) from None
        time.sleep(delay)
        delay = min(2 * delay, 10)


@contextmanager
def _stalls_end() -> Iterator[None]:
    """Let no connection that is made meanwhile wait for longer than that for its next byte: torch hub sets nothing."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(STALL_SECONDS)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _may_pass(error: Exception, file: Path) -> bool:
    if isinstance(error, HTTPError):
        return error.code >= 500 or error.code in (408, 429)
    if isinstance(error, URLError):
        return not isinstance(error.reason, socket.gaierror)  # Without a name server, there is no network here.
    # A wrong hash is a damaged download; what lies there and cannot be read stays as it is.
    return isinstance(error, ConnectionError | TimeoutError | HTTPException) or not file.exists()
