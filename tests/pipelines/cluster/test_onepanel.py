"""Registering the template, against a server on loopback that keeps Onepanel's REST contract."""

import hashlib
import json
import os
import re
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from pipelines.cli import ONEPANEL_SPEC
from tests.pipelines.command import Done, pipelines

TOKEN = "a-secret-token"
MD5 = hashlib.md5(TOKEN.encode()).hexdigest()
TEMPLATE_FIELDS = {"uid", "name", "manifest", "labels"}
PAGE = 2
"""A page's size here, so that finding a template takes several."""


class Onepanel:
    """The templates of the namespace `team`; `bare` is one that was never set up for Onepanel."""

    def __init__(self, html: bool = False) -> None:
        self.html = html
        """Whether everything is answered with a page, as a web server that knows nothing of the API does."""
        self.templates: list[dict[str, Any]] = []
        self.address = ""

    def add(self, name: str, **more: Any) -> None:
        self.templates.append({"uid": uid(name), "name": name, "version": "1", **more})


def uid(name: str) -> str:
    return re.sub(r"[^a-zA-Z0-9-]{1,}", "-", name).lower()


@contextmanager
def onepanel(**what: Any) -> Iterator[Onepanel]:
    double = Onepanel(**what)

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *arguments: Any) -> None: ...

        def do_GET(self) -> None:
            self.serve(None)

        def do_POST(self) -> None:
            self.serve(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

        def serve(self, body: Any) -> None:
            url = urlsplit(self.path)
            pattern = r"/api/apis/v1beta1/(team|bare)/workflow_templates(?:/([^/]+))?(/versions)?"
            match = re.fullmatch(pattern, url.path)
            if double.html:
                self.answer(200, "<html>")
            elif url.path == "/api/apis/v1beta1/auth/get_access_token":
                if body == {"username": "admin", "token": MD5}:
                    self.answer(200, {"domain": "example.com", "accessToken": TOKEN, "username": "admin"})
                else:
                    self.answer(400, {"code": 3, "message": "token doesn't match what's on record"})
            elif self.headers["Authorization"] != f"Bearer {TOKEN}":
                self.answer(403, {"code": 7, "message": "Permission denied."})
            elif match is None:
                self.answer(404, {"code": 5, "message": "Not Found"})
            elif match[1] == "bare":
                self.bare(body)
            elif body is None and match[2]:
                (known,) = (each for each in double.templates if each["uid"] == match[2])
                self.answer(200, known)
            elif body is None:
                page = int(parse_qs(url.query)["page"][0])
                shown = double.templates[PAGE * (page - 1) : PAGE * page]
                shown = [{**each, "manifest": "", "labels": []} for each in shown]
                pages = -(-len(double.templates) // PAGE)
                self.answer(200, {"count": len(shown), "workflowTemplates": shown, "page": page, "pages": pages})
            elif body.keys() - TEMPLATE_FIELDS:
                self.answer(400, {"code": 3, "message": f"unknown field {body.keys() - TEMPLATE_FIELDS}"})
            elif match[2] is None:
                if any(each["uid"] == uid(body["name"]) for each in double.templates):
                    self.answer(409, {"code": 6, "message": "Workflow template already exists."})
                    return
                double.add(**body)
                self.answer(200, double.templates[-1])
            else:
                (known,) = (each for each in double.templates if each["uid"] == match[2])
                known.update(body, version=str(int(known["version"]) + 1))
                self.answer(200, known)

        def bare(self, body: Any) -> None:
            if body is None:
                self.answer(200, {"count": 0, "workflowTemplates": [], "page": 1, "pages": 0})
            else:
                self.answer(400, {"code": 3, "message": 'configmaps "onepanel" not found'})

        def answer(self, status: int, document: Any) -> None:
            content = (document if isinstance(document, str) else json.dumps(document)).encode()
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


def publish(address: str, *flags: str, token: str = TOKEN, namespace: str = "team", user: str = "") -> Done:
    environment = {
        **os.environ,
        "ONEPANEL_API_URL": address,
        "ONEPANEL_TOKEN": token,
        "ONEPANEL_NAMESPACE": namespace,
        "ONEPANEL_USERNAME": user,
    }
    return pipelines("publish", *flags, env=environment)


def refused(result: Done) -> str:
    assert TOKEN not in result.refusal
    return result.refusal


def test_a_new_template_is_created_with_its_label() -> None:
    with onepanel() as server:
        result = publish(server.address)
    assert result.returncode == 0, result.stderr
    (template,) = server.templates
    assert template["name"] == "detr-training"
    assert template["manifest"] == ONEPANEL_SPEC.read_text()
    assert template["labels"] == [{"key": "used-by", "value": "cvat"}]
    assert "version 1" in result.stdout


def test_an_existing_template_gets_a_new_version_when_something_changed() -> None:
    with onepanel() as server:
        for name in ("a", "b", "c"):
            server.add(name)
        server.add("detr-training", manifest="entrypoint: main", labels=[{"key": "team", "value": "cells"}])
        result = publish(server.address)
        again = publish(server.address)
    assert result.returncode == again.returncode == 0, result.stderr
    assert "published 'detr-training' as detr-training, version 2" in result.stdout
    assert "'detr-training' is up to date: version 2" in again.stdout
    assert server.templates[-1]["manifest"] == ONEPANEL_SPEC.read_text()
    assert server.templates[-1]["version"] == "2"
    assert {each["key"]: each["value"] for each in server.templates[-1]["labels"]} == {
        "team": "cells", "used-by": "cvat",
    }  # fmt: skip
    assert len(server.templates) == 4


def test_a_template_without_the_label_is_published_again() -> None:
    with onepanel() as server:
        server.add("detr-training", manifest=ONEPANEL_SPEC.read_text(), labels=[])
        assert "version 2" in publish(server.address).stdout


def test_a_template_of_another_name_is_left_alone() -> None:
    with onepanel() as server:
        server.add("detr-training")
        assert publish(server.address, "--name", "cells").returncode == 0
    assert [each["name"] for each in server.templates] == ["detr-training", "cells"]
    assert "manifest" not in server.templates[0]


@pytest.mark.parametrize("name", ["", "DETR Training (v2)", "-detr", "a" * 31, "ü"])
def test_a_name_that_core_cannot_keep_is_refused_before_anything_is_sent(name: str) -> None:
    line = refused(publish("http://127.0.0.1:9/api", "--name", name))
    assert f"the name '{name}'" in line
    assert "30 letters" in line


def test_names_with_the_same_uid_are_told_apart() -> None:
    with onepanel() as server:
        server.add("detr-training")
        line = refused(publish(server.address, "--name", "DETR training"))
        assert publish(server.address, "--name", "Cells & more").returncode == 0
    assert "'DETR training' and the template 'detr-training'" in line
    assert [each["uid"] for each in server.templates] == ["detr-training", "cells-more"]


def test_either_kind_of_token_is_taken() -> None:
    with onepanel() as server:
        for token in (f"{TOKEN}\n", f"Bearer {TOKEN}"):
            assert publish(server.address, token=token).returncode == 0
        assert publish(server.address, token=f"{MD5}\n", user="admin").returncode == 0
        nameless = refused(publish(server.address, token=MD5))
        stranger = refused(publish(server.address, token=MD5, user="stranger"))
        broken = refused(publish(server.address, token=f"{TOKEN} twice"))
    assert "ONEPANEL_USERNAME" in nameless
    assert "token doesn't match" in stranger
    assert "ONEPANEL_TOKEN has spaces" in broken


def test_a_refused_token_an_unknown_namespace_and_a_server_away_are_said() -> None:
    with onepanel() as server:
        token = refused(publish(server.address, token=f"not-{TOKEN}"))
        namespace = refused(publish(server.address, namespace="elsewhere"))
        bare = refused(publish(server.address, namespace="bare"))
        long = refused(publish(server.address, namespace="n" * 25))
        path = refused(publish(server.address.removesuffix("/api")))
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        away = refused(publish(f"http://127.0.0.1:{unused.getsockname()[1]}"))
    assert "does not accept ONEPANEL_TOKEN" in token
    assert "ONEPANEL_NAMESPACE 'elsewhere'" in namespace
    assert "ONEPANEL_NAMESPACE 'bare'" in bare
    assert "at most 24" in long
    assert "ends in /api" in path
    assert "does not answer" in away


def test_a_server_that_answers_everything_with_a_page_is_not_believed() -> None:
    with onepanel(html=True) as server:
        for token, user in ((TOKEN, ""), (MD5, "admin")):
            assert "not as Onepanel's API does" in refused(publish(server.address, token=token, user=user))


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
