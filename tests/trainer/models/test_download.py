"""Weights from a server that fails in passing."""

from __future__ import annotations

import hashlib
import io
import threading
import time
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch

from trainer.errors import PassingError, TrainerError
from trainer.models import download as module
from trainer.models.download import download


class Server(ThreadingHTTPServer):
    daemon_threads = True
    faults: list[str]
    content: bytes
    waited_for = False


class Handler(BaseHTTPRequestHandler):
    server: Server

    def log_message(self, *arguments: object) -> None: ...

    def do_GET(self) -> None:
        fault = self.server.faults.pop(0) if self.server.faults else ""
        content = self.server.content
        if fault == "silent":
            self.connection.settimeout(15)
            try:
                self.connection.recv(1)  # Nothing comes but the end.
            except TimeoutError:
                self.server.waited_for = True
            return
        self.send_response(int(fault) if fault.isdigit() else 200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if fault == "flip":
            content = bytes([content[0] ^ 1]) + content[1:]
        pieces = 4 if fault == "slow" else 1
        for start in range(0, len(content), len(content) // pieces + 1):
            self.wfile.write(content[start : start + len(content) // pieces + 1])
            self.wfile.flush()
            time.sleep(0.4 if fault == "slow" else 0)


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    # urllib keeps the proxies of its first download for all others of the process.
    monkeypatch.setattr(urllib.request, "_opener", None)
    monkeypatch.setattr(module, "STALL_SECONDS", 1.0)
    monkeypatch.setattr(module, "RETRY_SECONDS", 10.0)
    with Server(("127.0.0.1", 0), Handler) as server:
        written = io.BytesIO()
        torch.save({"weight": torch.arange(3.0)}, written)
        server.content, server.faults = written.getvalue(), []
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}).start()
        yield server
        server.shutdown()


def address(server: Server) -> str:
    sum_ = hashlib.sha256(server.content).hexdigest()[:8]
    return f"http://127.0.0.1:{server.server_address[1]}/weights-{sum_}.pth"


@pytest.mark.parametrize("fault", ["silent", "slow", "503", "flip"])
def test_what_passes_is_tried_again(server: Server, fault: str) -> None:
    server.faults = [fault]
    content: dict[str, Any] = download(address(server))
    assert content["weight"].tolist() == [0.0, 1.0, 2.0]
    assert not server.waited_for


def test_what_does_not_pass_is_said(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    server.faults = ["404"]
    with pytest.raises(TrainerError, match=r"404.*put that file at") as caught:
        download(address(server))
    assert not isinstance(caught.value, PassingError)
    monkeypatch.setattr(module, "RETRY_SECONDS", 0.5)
    server.faults = ["503"] * 3
    with pytest.raises(PassingError, match="503"):
        download(address(server))
    assert server.faults
