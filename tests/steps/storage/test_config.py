"""Which bucket and who we are there: arguments before Onepanel's mounted files before the environment."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import botocore.session
import pytest
import yaml

from pipelines.local.s3_server import S3Server
from steps.storage.config import StorageConfig
from steps.storage.s3 import named_server
from steps.storage.store import open_storage
from tests.steps.refusals import refused


@pytest.fixture
def mounted(tmp_path: Path) -> Path:
    folder = tmp_path / "onepanel"
    mount(folder)
    return folder


def mount(folder: Path, **changes: Any) -> None:
    section = {
        "bucket": "mounted",
        "endpoint": "minio.example:9000",
        "region": "eu-west-1",
        "insecure": True,
        "accessKeySecret": {"name": "onepanel", "key": "artifactRepositoryS3AccessKey"},
        "secretKeySecret": {"name": "onepanel", "key": "artifactRepositoryS3SecretKey"},
        **changes,
    }
    folder.mkdir(exist_ok=True)
    (folder / "artifactRepository").write_text(yaml.safe_dump({"archiveLogs": True, "s3": section}))
    (folder / "artifactRepositoryS3AccessKey").write_text("mounted-access\n")
    (folder / "artifactRepositoryS3SecretKey").write_text("mounted-secret\n")


def test_arguments_come_first(mounted: Path) -> None:
    config = StorageConfig.resolve(
        bucket="given",
        endpoint="https://given.example",
        region="given-1",
        config_dir=mounted,
        environ={"S3_BUCKET": "from-environment"},
    )
    assert (config.bucket, config.endpoint, config.region) == ("given", "https://given.example", "given-1")


def test_mounted_files_come_before_the_environment(mounted: Path) -> None:
    config = StorageConfig.resolve(config_dir=mounted, environ={"S3_BUCKET": "from-environment"})
    assert (config.bucket, config.endpoint, config.region) == (
        "mounted",
        "http://minio.example:9000",
        "eu-west-1",
    )
    assert (config.access_key, config.secret_key) == ("mounted-access", "mounted-secret")


def test_environment_comes_last(tmp_path: Path) -> None:
    config = StorageConfig.resolve(config_dir=tmp_path, environ={"S3_BUCKET": "from-environment"})
    assert (config.bucket, config.endpoint, config.access_key) == ("from-environment", "", "")


def test_endpoint_without_a_scheme_is_encrypted_unless_said_otherwise(mounted: Path) -> None:
    mount(mounted, insecure=False)
    assert StorageConfig.resolve(config_dir=mounted).endpoint == "https://minio.example:9000"
    assert StorageConfig.resolve(endpoint="s3.example", config_dir=mounted).endpoint == "https://s3.example"


def test_pod_identity_needs_no_mounted_keys(mounted: Path) -> None:
    mount(mounted, accessKeySecret=None, secretKeySecret=None)
    config = StorageConfig.resolve(config_dir=mounted)
    assert (config.access_key, config.secret_key) == ("", "")


def test_mounted_keys_open_the_bucket(
    s3: S3Server, bucket: str, mounted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_ENDPOINT_URL_S3")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "of-the-environment")
    mount(mounted, bucket=bucket, endpoint=s3.endpoint.removeprefix("http://"))
    (mounted / "artifactRepositoryS3AccessKey").write_text(s3.access_key)
    (mounted / "artifactRepositoryS3SecretKey").write_text(s3.secret_key)
    storage, key = open_storage("some/key", StorageConfig.resolve(config_dir=mounted))
    assert (storage.url, key, storage.list("")) == (f"s3://{bucket}", "some/key", [])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("s3: {bucket: [", ["is not readable YAML"]),
        ("\x00", ["is not readable YAML"]),
        ("", ["has no section 's3'"]),
        ("- s3", ["has no section 's3'"]),
        ("gcs: {bucket: b}", ["has no section 's3'"]),
        ("s3: a-bucket", ["has no section 's3'"]),
        ("s3: {endpoint: e}", ["has no 's3.bucket'"]),
        ("s3: {bucket: b, accessKeySecret: key}", ["'s3.accessKeySecret.key' must name a file"]),
        ("s3: {bucket: b, secretKeySecret: {name: n}}", ["'s3.secretKeySecret.key' must name a file"]),
        ("s3: {bucket: b, accessKeySecret: {key: absent}}", ["'s3.accessKeySecret.key' names", "absent"]),
        ("s3: {bucket: b, secretKeySecret: {key: binary}}", ["'s3.secretKeySecret.key' names", "binary"]),
    ],
)
def test_flaw_of_the_mounted_file_is_named(tmp_path: Path, text: str, words: list[str]) -> None:
    path = tmp_path / "artifactRepository"
    path.write_text(text)
    (tmp_path / "binary").write_bytes(b"\xff\xfe\xff")
    with refused(path, *words):
        StorageConfig.resolve(config_dir=tmp_path)


def test_mounted_file_that_is_not_text_is_named(tmp_path: Path) -> None:
    (tmp_path / "artifactRepository").write_bytes(b"s3: \xff")
    with refused(tmp_path / "artifactRepository", "is not readable YAML"):
        StorageConfig.resolve(config_dir=tmp_path)


@pytest.mark.parametrize("half", ["accessKeySecret", "secretKeySecret"])
def test_half_a_pair_of_keys_is_refused(no_aws: None, mounted: Path, half: str) -> None:
    mount(mounted, **{half: None})
    with refused(mounted / "artifactRepository", "only one of"):
        open_storage("key", StorageConfig.resolve(config_dir=mounted))


def test_secrets_do_not_show(mounted: Path) -> None:
    config = StorageConfig.resolve(config_dir=mounted)
    assert "mounted" in repr(config)
    assert "mounted-access" not in repr(config)
    assert "mounted-secret" not in repr(config)


@pytest.mark.parametrize("endpoint", ["https://me:secret@minio:9000", "me:secret@minio", "http://secret@minio/x"])
def test_endpoint_with_a_password_is_refused_and_not_shown(tmp_path: Path, endpoint: str) -> None:
    with refused("before an '@'", "AWS_SECRET_ACCESS_KEY") as told:
        StorageConfig.resolve(endpoint=endpoint, config_dir=tmp_path, environ={})
    assert "me:" not in told.message
    assert "secret" not in told.message


OWN, COMMON = "http://own.example:9000/", "https://common.example"


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"AWS_ENDPOINT_URL_S3": OWN, "AWS_ENDPOINT_URL": COMMON}, "http://own.example:9000"),
        ({"AWS_ENDPOINT_URL": COMMON}, COMMON),
        ({"AWS_ENDPOINT_URL_S3": "", "AWS_ENDPOINT_URL": COMMON}, COMMON),
        ({"AWS_ENDPOINT_URL": COMMON, "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS": "true"}, ""),
        ({"AWS_ENDPOINT_URL": "https://s3.eu-central-1.amazonaws.com"}, ""),
        ({"AWS_CONFIG_FILE": "endpoint_url = https://of-the-file.example"}, ""),
        ({"AWS_ENDPOINT_URL": COMMON, "AWS_CONFIG_FILE": "endpoint_url = https://of-the-file.example"}, COMMON),
    ],
)
def test_server_that_the_environment_names_is_the_one_that_botocore_would_use(
    no_aws: None, environment: dict[str, str], expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        if name == "AWS_CONFIG_FILE":
            (tmp_path / "config").write_text(f"[default]\n{value}\n")
            value = str(tmp_path / "config")
        monkeypatch.setenv(name, value)
    session = botocore.session.Session()
    client = session.create_client("s3", "us-east-1", aws_access_key_id="a", aws_secret_access_key="b")
    found = named_server("", session)
    assert found == expected
    assert not found or found == client.meta.endpoint_url.rstrip("/")
