"""Registering the template, against a server on loopback that keeps Onepanel's REST contract."""

import json
import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from pipelines.cli import ONEPANEL_SPEC

PROJECT = Path(__file__).parents[3]
TOKEN = "a-secret-token"
TEMPLATE_FIELDS = {"uid", "name", "manifest", "labels"}
PAGE = 2
"""A page's size here, so that finding a template takes several."""


class Onepanel:
    """The templates of one namespace."""

    def __init__(self) -> None:
        self.templates: list[dict[str, Any]] = []
        self.address = ""

    def add(self, name: str, **more: Any) -> None:
        self.templates.append({"uid": f"uid-of-{name}", "name": name, "version": 1, **more})


@contextmanager
def onepanel() -> Iterator[Onepanel]:
    double = Onepanel()

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *arguments: Any) -> None: ...

        def do_GET(self) -> None:
            self.serve(None)

        def do_POST(self) -> None:
            self.serve(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

        def serve(self, body: Any) -> None:
            url = urlsplit(self.path)
            match = re.fullmatch(r"/api/apis/v1beta1/team/workflow_templates(?:/([^/]+)/versions)?", url.path)
            if self.headers["Authorization"] != f"Bearer {TOKEN}":
                self.answer(401, {"code": 16, "message": "Invalid token."})
            elif match is None:
                self.answer(404, {"code": 5, "message": "Not Found"})
            elif body is None:
                page = int(parse_qs(url.query)["page"][0])
                shown = double.templates[PAGE * (page - 1) : PAGE * page]
                pages = -(-len(double.templates) // PAGE)
                self.answer(200, {"count": len(shown), "workflowTemplates": shown, "page": page, "pages": pages})
            elif body.keys() - TEMPLATE_FIELDS:
                self.answer(400, {"code": 3, "message": f"unknown field {body.keys() - TEMPLATE_FIELDS}"})
            elif match[1] is None:
                if any(each["name"] == body["name"] for each in double.templates):
                    self.answer(409, {"code": 6, "message": "Workflow template already exists."})
                    return
                double.add(**body)
                self.answer(200, double.templates[-1])
            else:
                (known,) = (each for each in double.templates if each["uid"] == match[1])
                known.update(body, version=known["version"] + 1)
                self.answer(200, known)

        def answer(self, status: int, document: Any) -> None:
            content = json.dumps(document).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    double.address = f"http://127.0.0.1:{server.server_port}/api"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield double
    finally:
        server.shutdown()
        server.server_close()


def publish(
    address: str, *flags: str, token: str = TOKEN, namespace: str = "team"
) -> "subprocess.CompletedProcess[str]":
    environment = {
        **os.environ,
        "ONEPANEL_API_URL": address,
        "ONEPANEL_TOKEN": token,
        "ONEPANEL_NAMESPACE": namespace,
    }
    command = [sys.executable, "-m", "pipelines", "publish", *flags]
    return subprocess.run(command, cwd=PROJECT, env=environment, capture_output=True, text=True, timeout=60)


def refused(result: "subprocess.CompletedProcess[str]") -> str:
    assert result.returncode == 2, result.stdout + result.stderr
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: ")
    assert TOKEN not in line
    return line


def test_a_new_template_is_created_with_its_label() -> None:
    with onepanel() as server:
        result = publish(server.address)
    assert result.returncode == 0, result.stderr
    (template,) = server.templates
    assert template["name"] == "detr-training"
    assert template["manifest"] == ONEPANEL_SPEC.read_text()
    assert template["labels"] == [{"key": "used-by", "value": "cvat"}]
    assert "version 1" in result.stdout


def test_an_existing_template_gets_a_new_version() -> None:
    with onepanel() as server:
        for name in ("a", "b", "c", "detr-training"):
            server.add(name)
        result = publish(server.address)
    assert result.returncode == 0, result.stderr
    assert "uid-of-detr-training, version 2" in result.stdout
    assert server.templates[-1]["manifest"] == ONEPANEL_SPEC.read_text()
    assert server.templates[-1]["labels"] == [{"key": "used-by", "value": "cvat"}]
    assert len(server.templates) == 4


def test_a_template_of_another_name_is_left_alone() -> None:
    with onepanel() as server:
        server.add("detr-training")
        assert publish(server.address, "--name", "cells").returncode == 0
    assert [each["name"] for each in server.templates] == ["detr-training", "cells"]
    assert "manifest" not in server.templates[0]


def test_a_refused_token_an_unknown_namespace_and_a_server_away_are_said() -> None:
    with onepanel() as server:
        token = refused(publish(server.address, token=f"not-{TOKEN}"))
        namespace = refused(publish(server.address, namespace="elsewhere"))
        path = refused(publish(server.address.removesuffix("/api")))
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        away = refused(publish(f"http://127.0.0.1:{unused.getsockname()[1]}"))
    assert "does not accept ONEPANEL_TOKEN" in token
    assert "ONEPANEL_NAMESPACE 'elsewhere'" in namespace
    assert "ends in /api" in path
    assert "does not answer" in away


def test_missing_variables_are_named() -> None:
    line = refused(publish("", token=""))
    assert "ONEPANEL_API_URL, ONEPANEL_TOKEN not set" in line


@pytest.mark.parametrize("address", ["app.example.com/api", "ftp://app.example.com"])
def test_an_address_that_is_none_is_said(address: str) -> None:
    assert "https://host/api" in refused(publish(address))


def test_what_core_would_refuse_is_not_sent(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(ONEPANEL_SPEC.read_text().replace("visibility: internal", "visibility: secret"))
    with onepanel() as server:
        line = refused(publish(server.address, "--manifest", str(path)))
    assert "cvat-annotation-path" in line
    assert server.templates == []
