"""What the tests of several models share."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from http.server import ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.trainer.models.hub import Hub, Refusal
from trainer.models.hf import source


@pytest.fixture
def hub_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Starts a hub with a model of a name, made of such files; the library's cache is empty."""
    constants = pytest.importorskip("huggingface_hub.constants")
    servers: list[ThreadingHTTPServer] = []
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)

    def start(name: str, files: Mapping[str, bytes], refuse: Refusal | None = None) -> None:
        kept = {"name": name, "files": files, "refuse": refuse and staticmethod(refuse)}
        server = ThreadingHTTPServer(("127.0.0.1", 0), type("This", (Hub,), kept))
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")

    yield start
    # A download that a test gave up on would close the library's one client under the next test's hands.
    for thread in threading.enumerate():
        if thread.name == source.DOWNLOAD:
            thread.join(60)
    for server in servers:
        server.shutdown()
        server.server_close()
