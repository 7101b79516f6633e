"""Azure Blob Storage, by Microsoft's emulator: `npm install -g azurite` and `pip install azure-storage-blob`.

Where it is not on the PATH, these tests skip.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from steps.common.errors import TemporaryError
from steps.fetch import fetch_dump
from steps.prepare import prepare_data
from steps.storage.config import StorageConfig
from steps.storage.errors import NotAllowedError
from steps.storage.store import open_storage
from steps.storage.threads import PART_BYTES
from steps.upload import upload_artifacts
from tests.conftest import write_coco_dump
from tests.steps.refusals import refused

AZURITE = shutil.which("azurite-blob")
ACCOUNT = "devstoreaccount1"
# Every Azurite's, and no secret: learn.microsoft.com/azure/storage/common/storage-connect-azurite
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="

pytestmark = pytest.mark.skipif(AZURITE is None, reason="azurite-blob is not on the PATH")


@pytest.fixture(scope="module")
def azurite() -> Iterator[str]:
    """The address of an emulated account."""
    assert AZURITE is not None
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [AZURITE, "--inMemoryPersistence", "--skipApiVersionCheck", "--silent", "--blobPort", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(300):
            with socket.socket() as knock:
                if knock.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}/{ACCOUNT}"
    finally:
        server.terminate()
        server.wait()


@pytest.fixture
def container(azurite: str, no_aws: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A container of the test's own, and an environment that knows it."""
    blob = pytest.importorskip("azure.storage.blob")
    for name in list(os.environ):
        if name.startswith("AZURE_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", ACCOUNT)
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", KEY)
    monkeypatch.setenv("AZURE_STORAGE_ENDPOINT", azurite)
    name = tmp_path.name.lower().replace("_", "-")[-60:].strip("-")
    blob.BlobServiceClient(azurite, credential=KEY).create_container(name)
    return f"az://{name}"


def files_in(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_whatever_a_file_is_called_and_however_large_it_is_it_comes_back(container: str, tmp_path: Path) -> None:
    sent = tmp_path / "sent"
    contents = {
        "large.bin": os.urandom(2 * PART_BYTES + 12345), "sub/empty": b"", "a b.txt": b"1", "\u00fc#%+&.txt": b"2",
        "\u65e5\u672c/x=1.txt": b"3", "100%25.txt": b"4",
    }  # fmt: skip
    for name, content in contents.items():
        (sent / name).parent.mkdir(parents=True, exist_ok=True)
        (sent / name).write_bytes(content)
    storage, prefix = open_storage(f"{container}/run", StorageConfig.resolve())
    storage.upload([(sent / name, f"{prefix}/{name}") for name in contents])
    storage.upload([(sent / "a b.txt", "runner/other.txt")])
    found = storage.list("run")
    assert {remote.key: remote.size for remote in found} == {f"run/{name}": len(c) for name, c in contents.items()}
    assert storage.children("run") == sorted(
        ["100%25.txt", "a b.txt", "large.bin", "sub/", "\u00fc#%+&.txt", "\u65e5\u672c/"]
    )
    storage.download([(remote, tmp_path / remote.key) for remote in found], tmp_path / "scratch")
    assert files_in(tmp_path / "run") == contents
    assert storage.head("run/nothing") is None
    storage.remove(["run/large.bin", "run/nothing"])
    assert len(storage.list("run")) == len(contents) - 1


def test_a_dump_is_fetched_once_and_a_run_is_uploaded_with_its_manifest(container: str, tmp_path: Path) -> None:
    dump = tmp_path / "dump"
    write_coco_dump(dump)
    storage, _ = open_storage(f"{container}/dump", StorageConfig.resolve())
    storage.upload([(path, f"dump/{path.relative_to(dump).as_posix()}") for path in dump.rglob("*") if path.is_file()])
    fetch_dump(f"{container}/dump", tmp_path / "data")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "data").rglob("*.png")}
    assert len(before) > 3
    fetch_dump(f"{container}/dump", tmp_path / "data")
    assert {path: path.stat().st_mtime_ns for path in before} == before
    report = prepare_data(tmp_path / "data")
    assert sum(report["images"][split] for split in ("train", "val")) == len(before)

    (tmp_path / "run").mkdir()
    for text in ("first", "second"):
        (tmp_path / "run" / "report.html").write_text(text)
        upload_artifacts(tmp_path / "run", f"{container}/models/1")
    manifest = json.loads(storage.read("models/1/manifest.json") or b"")
    assert "report.html" in json.dumps(manifest)
    assert storage.read("models/1/report.html") == b"second"


def test_refusals_are_a_line(container: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with refused("az://nobody-s", "does not exist (404 ContainerNotFound)"):
        fetch_dump("az://nobody-s/dump", tmp_path / "data")
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", f"AAAA{KEY[4:]}")
    with pytest.raises(NotAllowedError, match=r"does not let these credentials do that \(403"):
        fetch_dump(f"{container}/dump", tmp_path / "data")
    monkeypatch.setenv("AZURE_STORAGE_ENDPOINT", f"http://127.0.0.1:9/{ACCOUNT}")
    with pytest.raises(TemporaryError, match=r"check the network and the store's endpoint") as caught:
        fetch_dump(f"{container}/dump", tmp_path / "data")
    assert len(str(caught.value)) < 200
