"""The one door to terminal and log."""

from __future__ import annotations

import io
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
from rich.table import Table
from rich.text import Text

from steps.common import console
from steps.common.console import OneDoor, Screen, fail, say
from steps.common.messages import presentable, unmarked

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize(
    "text",
    [
        "GET https://minio/b/k?X-Amz-Credential=SECRET12/us&X-Amz-Signature=SECRET12SECRET12",
        "<Error><AWSAccessKeyId>SECRET12SECRET12</AWSAccessKeyId><Code>SignatureDoesNotMatch</Code></Error>",
        "{'Authorization': 'Bearer SECRET12.SECRET12'}",
        "Authorization: AWS4-HMAC-SHA256 Credential=x, Signature=SECRET12SECRET12",
        "cannot open https://user:SECRET12@minio:9000/bucket",
        "cannot open https://SECRET12@minio:9000/bucket",
        'the server says {"session_token": "SECRET12SECRET12", "code": 403}',
        "aws_secret_access_key=SECRET12SECRET12",
    ],
)
def test_secrets_are_not_shown(text: str) -> None:
    shown = presentable(text)
    assert "SECRET12" not in shown
    assert "***" in shown


def test_secrets_of_the_environment_are_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "correct horse")
    monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", "/var/run/token")
    assert presentable("refused: correct horse, /var/run/token") == "refused: ***, /var/run/token"


@pytest.mark.parametrize(
    "text",
    [
        "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY or AWS_PROFILE",
        "refuses the credentials (InvalidAccessKeyId): check the access key and the secret key (/etc/onepanel)",
        "http://minio:9000 does not serve s3://bucket/a@b/c: check the endpoint",
        "class \u00d6se: 3 boxes\tat 5\u202fpm",
    ],
)
def test_other_text_stays(text: str) -> None:
    assert presentable(text) == text


def test_names_cannot_steer_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(OneDoor("%(message)s"))
    log = logging.Logger("test")
    log.addHandler(handler)
    log.warning("class %s: AP %.1f", "\x1b]0;evil\x07\u202e\nerror: all is well", 0.5)
    assert stream.getvalue() == "class \\x1b]0;evil\\x07\ufffd error: all is well: AP 0.5\n"
    fail("\x1b[2J\u2066x\nerror: y")
    assert capsys.readouterr().err == "error: \\x1b[2J\ufffdx error: y\n"


def test_names_cannot_steer_the_screen(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "correct horse battery staple, and a long one that a line cannot hold")
    hostile = "\x1b]0;evil\x07\u202eb " + os.environ["AWS_SECRET_ACCESS_KEY"]
    table = Table(hostile, box=None)
    table.add_row(Text(hostile), Text("nut"))
    for shown in (table, hostile, Text.assemble("a ", (hostile, "bold"), " c")):
        Screen().print(shown)
    say(hostile)
    said = capsys.readouterr().out
    assert said.count("***") == said.count("evil") == 5
    assert not {"\x1b", "\x07", "\u202e"} & set(said)
    assert "horse" not in said
    assert "nut" in said


DEFECT = """
import threading, typer
from steps.common.console import create_app, run_app

app = create_app("x", "y")

@app.command()
def defect(where: str) -> None:
    def fall() -> None:
        raise RuntimeError("\\x1b[2J\\u202ehttps://user:SECRET12SECRET12@minio \\ud800")
    if where == "thread":
        thread = threading.Thread(target=fall)
        thread.start()
        thread.join()
    else:
        fall()

@app.command()
def other() -> None: ...

raise SystemExit(run_app(lambda: app, ValueError))
"""


@pytest.mark.parametrize("where", ["main", "thread"])
def test_the_traceback_of_a_defect_cannot_either(where: str) -> None:
    command = [sys.executable, "-c", DEFECT, "defect", where]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == (1 if where == "main" else 0)
    assert done.stderr.startswith("Traceback")
    assert done.stderr.endswith("RuntimeError: \\x1b[2J\ufffdhttps://***@minio \\ud800\n")


def test_what_kubernetes_shows_cannot_either(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(console, "TERMINATION_LOG", tmp_path / "log")
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    fail("https://user:SECRET12SECRET12@minio \x1b[2J \ud800")
    assert (tmp_path / "log").read_text() == "https://***@minio \\x1b[2J \\ud800"


def test_a_locale_that_lacks_signs_shows_them_as_escapes() -> None:
    code = (
        "from steps.common.console import *; run_app(lambda: create_app('x', ''), ValueError); say('gr\u00f6\u00dfe')"
    )
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, cwd=ROOT, env=environment)
    assert done.stdout.endswith(b"gr\\xf6\\xdfe\n"), done.stderr


def test_a_locale_that_lacks_names_of_files_is_one_line() -> None:
    environment = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    for module in ("steps", "pipelines"):
        command = [sys.executable, "-m", module, "--help"]
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr == "error: this locale writes file names as ascii, not UTF-8: set PYTHONUTF8=1\n"


def test_marks_of_direction() -> None:
    assert unmarked("a\u202e\u200fb\u2069\u05d0") == "a\ufffd\ufffdb\ufffd\u05d0"
