"""A stand-in for the Hugging Face hub, with the part of its API that a download needs
(https://huggingface.co/docs/hub/api)."""

from __future__ import annotations

import hashlib
import json
import socket
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler
from typing import Any

COMMIT = "a" * 40
Refusal = Callable[["Hub"], bool]
"""Answers a request in its own way, or does not and gives False."""


class Hub(BaseHTTPRequestHandler):
    """Answers requests about one model."""

    protocol_version = "HTTP/1.1"
    name: str
    files: Mapping[str, bytes]
    refuse: Refusal | None = None

    def do_GET(self) -> None:
        refuse = type(self).refuse
        if refuse is not None and refuse(self):
            return
        path = self.path.partition("?")[0]
        if path.startswith(f"/api/models/{self.name}/tree/"):
            listed = [{"type": "file", "path": p, "size": len(c), "oid": _oid(c)} for p, c in self.files.items()]
            self.answer(200, json.dumps(listed).encode())
        elif path.startswith(f"/api/models/{self.name}"):
            self.answer(200, json.dumps({"id": self.name, "sha": COMMIT, "siblings": []}).encode())
        elif (content := self.files.get(path.removeprefix(f"/{self.name}/resolve/{COMMIT}/"))) is not None:
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


def refusing(status: int, where: str = "/", **headers: str) -> Refusal:
    """Answers requests below a path with an error."""

    def refuse(request: Hub) -> bool:
        if not request.path.startswith(where):
            return False
        request.answer(status, b"{}", **{name.replace("_", "-"): value for name, value in headers.items()})
        return True

    return refuse


def nowhere() -> str:
    """The address of a hub that is not there."""
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{nobody.getsockname()[1]}"
