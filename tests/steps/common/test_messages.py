"""The one door to terminal and log."""

from __future__ import annotations

import io
import logging

import pytest

from steps.common.console import OneDoor, fail
from steps.common.messages import presentable, unmarked


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


def test_marks_of_direction() -> None:
    assert unmarked("a\u202e\u200fb\u2069\u05d0") == "a\ufffd\ufffdb\ufffd\u05d0"
