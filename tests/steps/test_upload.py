"""Uploading what a run made, into a real bucket."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from steps.upload import upload_artifacts
from tests.steps.refusals import refused


@pytest.fixture
def output_dir(tmp_path: Path) -> Path:
    """What a run leaves, with what must stay behind: hidden, unfinished, and an earlier upload's manifest."""
    folder = tmp_path / "output"
    for name in (
        "report.html", "metrics.json", "checkpoints/best.pth", "tensorboard/events 1#2", "empty.txt",
        ".hidden", ".state/notes.json", "checkpoints/.best.pth.1.tmp", "manifest.json",
    ):  # fmt: skip
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("" if name == "empty.txt" else f"content of {name}")
    return folder


UPLOADED = ["checkpoints/best.pth", "empty.txt", "metrics.json", "report.html", "tensorboard/events 1#2"]


def keys(client: Any, bucket: str) -> list[str]:
    return [found["Key"] for found in client.list_objects_v2(Bucket=bucket).get("Contents", [])]


def read(client: Any, bucket: str, key: str) -> bytes:
    return client.get_object(Bucket=bucket, Key=key)["Body"].read()


@pytest.mark.parametrize("output_path", ["runs/1", "/runs//1/", "s3://{bucket}/runs/1", "s3://{bucket}//runs/1//"])
def test_every_file_lies_under_the_prefix(output_dir: Path, s3_client: Any, bucket: str, output_path: str) -> None:
    uploaded = upload_artifacts(output_dir, output_path.format(bucket=bucket))
    assert uploaded == [*(f"runs/1/{name}" for name in UPLOADED), "runs/1/manifest.json"]
    assert keys(s3_client, bucket) == sorted(uploaded)
    for name in UPLOADED:
        assert read(s3_client, bucket, f"runs/1/{name}") == (output_dir / name).read_bytes()


def test_manifest_tells_what_lies_there(output_dir: Path, s3_client: Any, bucket: str) -> None:
    copy = output_dir.parent / "copy.json"
    upload_artifacts(output_dir, "runs/1", str(copy))
    manifest = json.loads(read(s3_client, bucket, "runs/1/manifest.json"))
    assert json.loads(copy.read_text()) == manifest
    assert [entry["key"] for entry in manifest["files"]] == [f"runs/1/{name}" for name in UPLOADED]
    for entry in manifest["files"]:
        content = read(s3_client, bucket, entry["key"])
        assert (entry["size"], entry["sha256"]) == (len(content), hashlib.sha256(content).hexdigest())


def test_report_opens_in_a_browser(output_dir: Path, s3_client: Any, bucket: str) -> None:
    upload_artifacts(output_dir, "runs/1")
    assert s3_client.head_object(Bucket=bucket, Key="runs/1/report.html")["ContentType"] == "text/html"


def test_upload_that_was_killed_has_no_manifest(tmp_path: Path, s3_client: Any, bucket: str) -> None:
    (tmp_path / "output").mkdir()
    for number in range(300):
        (tmp_path / "output" / f"{number:03}").write_bytes(os.urandom(50_000))
    command = [sys.executable, "-m", "steps", "upload", "--output-dir", str(tmp_path / "output")]
    process = subprocess.Popen([*command, "--output-path", "run"], stdout=subprocess.DEVNULL)
    while process.poll() is None and not keys(s3_client, bucket):
        time.sleep(0.001)
    process.kill()
    process.wait()
    there = keys(s3_client, bucket)
    assert 0 < len(there) < 300
    assert "run/manifest.json" not in there

    upload_artifacts(tmp_path / "output", "run")
    assert len(keys(s3_client, bucket)) == 301
    assert "run/manifest.json" in keys(s3_client, bucket)


def test_failed_upload_has_no_manifest(output_dir: Path, s3_client: Any, bucket: str) -> None:
    # No key of ours can have a line break: this file is refused when it comes to it.
    (output_dir / "zz\nz").write_text("x")
    with refused(f"s3://{bucket}", "rename it"):
        upload_artifacts(output_dir, "runs/1")
    assert "runs/1/manifest.json" not in keys(s3_client, bucket)


class TestRefusals:
    def test_no_folder(self, bucket: str, tmp_path: Path) -> None:
        with refused(f"--output-dir {tmp_path / 'absent'} is not a folder"):
            upload_artifacts(tmp_path / "absent", "runs/1")

    def test_empty_folder(self, bucket: str, tmp_path: Path) -> None:
        (tmp_path / ".hidden").write_text("x")
        with refused(f"--output-dir {tmp_path} holds no file", "run them first"):
            upload_artifacts(tmp_path, "runs/1")

    @pytest.mark.parametrize("output_path", ["", " ", "/", "//"])
    def test_no_prefix(self, bucket: str, output_dir: Path, output_path: str) -> None:
        with refused("--output-path is empty"):
            upload_artifacts(output_dir, output_path)

    def test_wrong_credentials(
        self, bucket: str, output_dir: Path, s3_client: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not-the-right-one")
        with refused("refuses the credentials", bucket):
            upload_artifacts(output_dir, "runs/1")
        assert keys(s3_client, bucket) == []
