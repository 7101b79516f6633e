"""Models from a hub on this machine: one that works, and those that do not."""

from __future__ import annotations

import hashlib
import json
import socket
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from trainer.errors import TrainerError
from trainer.models.hf.source import find_source

constants = pytest.importorskip("huggingface_hub.constants")

NAME = "someone/detector"
COMMIT = "a" * 40
FILES = {
    "config.json": b"{}",
    "model.safetensors": b"weights",
    "README.md": b"---\nlicense: mit\n---\n",
    "pytorch_model.bin": b"the same weights again",
    "pictures/cat.png": b"a picture",
}


class Hub(BaseHTTPRequestHandler):
    """The part of the hub's API that a download needs (https://huggingface.co/docs/hub/api)."""

    protocol_version = "HTTP/1.1"
    refuse: Callable[[Hub], bool] = lambda _: False

    def do_GET(self) -> None:
        if type(self).refuse(self):
            return
        path = self.path.partition("?")[0]
        if path.startswith(f"/api/models/{NAME}/tree/"):
            listed = [{"type": "file", "path": p, "size": len(c), "oid": _oid(c)} for p, c in FILES.items()]
            self.answer(200, json.dumps(listed).encode())
        elif path.startswith(f"/api/models/{NAME}"):
            self.answer(200, json.dumps({"id": NAME, "sha": COMMIT, "siblings": []}).encode())
        elif (content := FILES.get(path.removeprefix(f"/{NAME}/resolve/{COMMIT}/"))) is not None:
            headers = {"ETag": f'"{_oid(content)}"', "X-Repo-Commit": COMMIT}
            self.answer(200, content, **headers)
        else:
            self.answer(404, b"", **{"X-Error-Code": "EntryNotFound"})

    do_HEAD = do_GET  # noqa: N815

    def answer(self, status: int, content: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing."""


def _oid(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Starts a hub that refuses some requests; the library's cache is empty."""
    servers: list[ThreadingHTTPServer] = []
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))

    def start(refuse: Callable[[Hub], bool] = lambda _: False) -> None:
        server = ThreadingHTTPServer(("127.0.0.1", 0), type("This", (Hub,), {"refuse": staticmethod(refuse)}))
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def refusing(status: int, where: str = "/", **headers: str) -> Callable[[Hub], bool]:
    """Answers requests below a path with an error."""

    def refuse(request: Hub) -> bool:
        if not request.path.startswith(where):
            return False
        request.answer(status, b"{}", **{name.replace("_", "-"): value for name, value in headers.items()})
        return True

    return refuse


def test_a_model_is_downloaded_once_with_its_license(hub: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    hub()
    source = find_source(NAME)
    assert (source.revision, source.license) == (COMMIT, "mit")
    assert {path.name for path in source.folder.iterdir()} == {"config.json", "model.safetensors", "README.md"}
    # Later the hub is away, and the cache answers.
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{nobody.getsockname()[1]}")
        assert find_source(NAME) == source


@pytest.mark.parametrize(
    ("refuse", "words"),
    [
        (refusing(404, X_Error_Code="RepoNotFound"), "has no such model, or it is private; check the name"),
        (refusing(401), r"asks for a token that may read the model \(401\); set HF_TOKEN"),
        (refusing(401, f"/{NAME}/resolve", X_Error_Code="GatedRepo"), "asks for a token; accept the model's terms"),
        (refusing(403, f"/{NAME}/resolve", X_Error_Code="GatedRepo"), "asks for a token; accept the model's terms"),
        (refusing(403), r"asks for a token that may read the model \(403\); set HF_TOKEN"),
        (refusing(500), r"answers with an error \(500\)"),
    ],
)
def test_a_hub_that_refuses_is_told_in_a_line(hub: Callable[..., None], refuse: Any, words: str) -> None:
    hub(refuse)
    with pytest.raises(TrainerError, match=rf"^hf:{NAME}: http://127.0.0.1:\d+ {words}") as caught:
        find_source(NAME)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("where", ["/api", f"/{NAME}/resolve/{COMMIT}/model.safetensors"])
def test_a_hub_that_hangs_is_given_up(hub: Callable[..., None], where: str) -> None:
    over = threading.Event()

    def hang(request: Hub) -> bool:
        return request.path.startswith(where) and over.wait()

    hub(hang)
    try:
        with pytest.raises(TrainerError, match=r"does not answer; check the network and HF_ENDPOINT, or name a folder"):
            find_source(NAME, silence=2)
    finally:
        over.set()


def test_a_hub_that_is_not_there_is_told_in_a_line(hub: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{nobody.getsockname()[1]}")
        with pytest.raises(TrainerError, match=r"cannot be reached .*; check the network and HF_ENDPOINT") as caught:
            find_source(NAME)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "words"), [("one word", "is named OWNER/NAME"), ("a/b/c", "no such folder"), ("./here", "no such folder")]
)
def test_a_name_that_cannot_be_is_refused(name: str, words: str, hub: Callable[..., None]) -> None:
    hub()
    with pytest.raises(TrainerError, match=words):
        find_source(name)
