"""Object storage, against a real S3 server and real folders."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import pytest
from obstore.store import GCSStore, LocalStore

from pipelines.local.s3_server import S3Server
from steps.storage.config import StorageConfig
from steps.storage.objects import RemoteObject
from steps.storage.s3 import S3
from steps.storage.store import Storage, open_storage
from steps.storage.threads import PART_BYTES, PARTS_IN_FLIGHT
from tests.steps.refusals import refused

ODD_NAMES = [
    "a b.txt", "#1.txt", "100%.txt", "%41.txt", "ü 日本.txt", "e\u0301.txt", "it's \"quoted\".txt",
    "who?.txt", "a+b&c=d.txt", "~^`<>.txt", "[b]{c}|*.txt",
]  # fmt: skip


def test_key_goes_to_the_configured_bucket(bucket: str) -> None:
    storage, key = open_storage("/some//prefix/", StorageConfig.resolve())
    assert (storage.url, key) == (f"s3://{bucket}", "some/prefix")


class TestRefusals:
    def test_no_bucket(self, no_aws: None) -> None:
        with refused("'some/key'", "no bucket is configured", "--bucket", "S3_BUCKET"):
            open_storage("some/key", StorageConfig())

    def test_no_credentials(self, no_aws: None, s3: S3Server) -> None:
        with refused("no S3 credentials for s3://some-bucket", "AWS_ACCESS_KEY_ID"):
            open_storage("s3://some-bucket/key", StorageConfig(endpoint=s3.endpoint))

    @pytest.mark.parametrize(
        ("variable", "code"),
        [("AWS_ACCESS_KEY_ID", "InvalidAccessKeyId"), ("AWS_SECRET_ACCESS_KEY", "SignatureDoesNotMatch")],
    )
    def test_wrong_credentials(
        self, s3: S3Server, bucket: str, monkeypatch: pytest.MonkeyPatch, variable: str, code: str
    ) -> None:
        monkeypatch.setenv(variable, "not-the-right-one")
        with refused(s3.endpoint, "refuses the credentials", bucket, code) as caught:
            open_storage("key", StorageConfig.resolve())
        assert "not-the-right-one" not in caught.message

    def test_unknown_bucket(self, s3: S3Server, bucket: str) -> None:
        with refused("there is no bucket 'no-such-bucket'", s3.endpoint):
            open_storage("s3://no-such-bucket/key", StorageConfig.resolve())

    def test_no_server_at_the_endpoint(self, bucket: str) -> None:
        # Port 9 ("discard") is served by nobody, and refuses at once.
        with refused("no S3 server answers at http://127.0.0.1:9", "check the endpoint"):
            open_storage("key", StorageConfig.resolve(endpoint="http://127.0.0.1:9"))

    def test_server_of_another_kind(self, bucket: str, tmp_path: Path) -> None:
        command = [sys.executable, "-u", "-m", "http.server", "0", "--bind", "127.0.0.1", "-d", str(tmp_path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server:
            try:
                port = server.stdout.readline().split("port ")[1].split()[0]
                with refused(f"http://127.0.0.1:{port}", bucket):
                    open_storage("key", StorageConfig.resolve(endpoint=f"http://127.0.0.1:{port}"))
            finally:
                server.kill()

    @pytest.mark.parametrize("endpoint", ["http://", "http://no spaces", "ftp:/x"])
    def test_endpoint_that_is_no_address(self, bucket: str, endpoint: str) -> None:
        with refused("endpoint"):
            open_storage("key", StorageConfig.resolve(endpoint=endpoint))

    def test_bucket_name_that_no_bucket_can_have(self, bucket: str) -> None:
        with refused("No Such Bucket!"):
            open_storage("key", StorageConfig.resolve(bucket="No Such Bucket!"))

    @pytest.mark.parametrize(
        ("address", "words"),
        [
            ("s3://", ["names no bucket", "s3://bucket/key"]),
            ("ftp://host/key", ["cannot open ftp://host"]),
            ("https://host/bucket/key", ["s3://bucket/key", "--endpoint"]),
            ("s3://bucket/a/../b", ["'..'"]),
            ("s3://bucket/a\nb", ["control character"]),
        ],
    )
    def test_address_that_cannot_be_opened(self, no_aws: None, address: str, words: list[str]) -> None:
        with refused(*words):
            open_storage(address, StorageConfig())


class TestSchemes:
    def test_s3(self, bucket: str) -> None:
        storage, key = open_storage(f"s3://{bucket}/who?#%41", StorageConfig())
        assert (type(storage._bucket), key) == (S3, "who?#%41")

    def test_bucket_may_carry_the_scheme(self, no_aws: None) -> None:
        storage, key = open_storage("a/key", StorageConfig(bucket="gs://name/"))
        assert (type(storage._bucket.store), storage.url, key) == (GCSStore, "gs://name", "a/key")

    def test_folder(self, no_aws: None, tmp_path: Path) -> None:
        for name in ODD_NAMES:
            (tmp_path / "a #1 %41").mkdir(exist_ok=True)
            (tmp_path / "a #1 %41" / name).write_text(name, encoding="utf-8")
        storage, key = open_storage((tmp_path / "a #1 %41").as_uri(), StorageConfig())
        assert (type(storage._bucket.store), Path("/", key)) == (LocalStore, tmp_path / "a #1 %41")
        found = storage.list(key)
        wanted = [(remote, tmp_path / "there" / Path(remote.key).name) for remote in found]
        storage.download(wanted, tmp_path / "scratch")
        there = {path.name: path.read_text(encoding="utf-8") for path in (tmp_path / "there").iterdir()}
        assert there == {name: name for name in ODD_NAMES}

    def test_upload_into_a_folder(self, no_aws: None, tmp_path: Path) -> None:
        (tmp_path / "here.txt").write_bytes(b"here")
        storage, key = open_storage((tmp_path / "there").as_uri(), StorageConfig())
        storage.upload([(tmp_path / "here.txt", f"{key}/b/c.txt")])
        assert (tmp_path / "there" / "b" / "c.txt").read_bytes() == b"here"


@pytest.fixture
def storage(bucket: str) -> Storage:
    return open_storage("", StorageConfig.resolve())[0]


class TestKeys:
    @pytest.mark.parametrize("name", ODD_NAMES)
    def test_odd_names_arrive_as_they_are(
        self, storage: Storage, s3_client: Any, bucket: str, put: Any, tmp_path: Path, name: str
    ) -> None:
        put(f"odd #1 %41/{name}", name.encode())
        [remote] = storage.list("odd #1 %41")
        assert remote.key == f"odd #1 %41/{name}"
        assert storage.head(remote.key) == remote
        assert storage.children("odd #1 %41") == [name]
        storage.download([(remote, tmp_path / name)], tmp_path / "scratch")
        assert (tmp_path / name).read_bytes() == name.encode()

        storage.upload([(tmp_path / name, f"back/{name}")])
        assert s3_client.get_object(Bucket=bucket, Key=f"back/{name}")["Body"].read() == name.encode()

    def test_prefix_is_a_whole_segment(self, storage: Storage, put: Any) -> None:
        for key in ("a/b/1", "a/bc/2", "a/b.txt"):
            put(key, b"x")
        assert [remote.key for remote in storage.list("a/b")] == ["a/b/1"]
        assert storage.children("a") == ["b.txt", "b/", "bc/"]

    def test_more_than_a_page(self, storage: Storage, put: Any) -> None:
        keys = [f"many/{number:04}" for number in range(1005)]
        for key in keys:
            put(key, b"")
        assert sorted(remote.key for remote in storage.list("many")) == keys

    def test_folder_markers_are_no_files(self, storage: Storage, put: Any) -> None:
        for key in ("d/", "d/full/", "d/full/x", "d/empty/", "d/file"):
            put(key, b"")
        assert sorted(remote.key for remote in storage.list("d")) == ["d/file", "d/full/x"]
        assert storage.children("d") == ["empty/", "file", "full/"]

    def test_absent_key_is_none(self, storage: Storage) -> None:
        assert storage.head("absent") is None
        assert storage.head("") is None

    def test_key_that_no_file_can_have_is_named(self, storage: Storage, bucket: str, put: Any) -> None:
        put("dump/two\nlines.txt", b"x")
        with refused(f"s3://{bucket}", "lines.txt", "rename it"):
            storage.list("dump")

    def test_name_that_no_key_can_have_is_named(self, storage: Storage, bucket: str, tmp_path: Path) -> None:
        (tmp_path / "two\nlines.txt").write_bytes(b"x")
        with refused(f"s3://{bucket}", "lines.txt", "rename it"):
            storage.upload([(tmp_path / "two\nlines.txt", "two\nlines.txt")])


class TestTransfers:
    def test_large_object_moves_in_parts(self, storage: Storage, s3_client: Any, bucket: str, tmp_path: Path) -> None:
        content = os.urandom(3 * PART_BYTES + 12345)
        (tmp_path / "large").write_bytes(content)
        storage.upload([(tmp_path / "large", "large")])
        # The entity tag of what came in parts ends in their number.
        assert s3_client.head_object(Bucket=bucket, Key="large")["ETag"].strip('"').endswith("-4")
        storage.download([(storage.head("large"), tmp_path / "back")], tmp_path / "scratch")
        assert hashlib.sha256((tmp_path / "back").read_bytes()).digest() == hashlib.sha256(content).digest()

    def test_memory_is_bounded(self, storage: Storage, put: Any, tmp_path: Path) -> None:
        put("small", b"x")
        size = 5 * PARTS_IN_FLIGHT * PART_BYTES
        with (tmp_path / "large").open("wb") as file:
            file.truncate(size)
        storage.upload([(tmp_path / "large", "large")])
        program = """
import resource, sys
from pathlib import Path
from steps.storage.config import StorageConfig
from steps.storage.store import open_storage
storage, key = open_storage(sys.argv[1], StorageConfig.resolve())
target = Path(sys.argv[2])
storage.download([(storage.head(key), target)], target.parent / "scratch")
storage.upload([(target, key + "-again")])
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""

        def peak(key: str) -> int:
            # Through a shell: a process inherits the peak of the one that it was forked from.
            command = ["sh", "-c", '"$@"; exit $?', "sh", sys.executable, "-c", program]
            command += [key, str(tmp_path / "there" / key)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            return int(done.stdout) * (1 if sys.platform == "darwin" else 1024)

        grown = peak("large") - peak("small")
        assert (tmp_path / "there" / "large").stat().st_size == size
        # Half of the object is more than what may be in flight, with room for copies on the way.
        assert grown < size // 2

    def test_object_that_changed_since_the_listing(self, storage: Storage, put: Any, tmp_path: Path) -> None:
        put("key", b"before")
        [remote] = storage.list("")
        put("key", b"after!")
        with refused("/key changed in the meantime", "run the step again"):
            storage.download([(remote, tmp_path / "file")], tmp_path / "scratch")
        assert not (tmp_path / "file").exists()

    def test_object_that_vanished_since_the_listing(self, storage: Storage, tmp_path: Path) -> None:
        with refused("/key vanished while it was being fetched", "run the step again"):
            storage.download([(RemoteObject("key", 3, "abc"), tmp_path / "file")], tmp_path / "scratch")
        assert not (tmp_path / "file").exists()

    def test_failure_leaves_no_half_file(self, storage: Storage, put: Any, tmp_path: Path) -> None:
        objects = {f"{number:03}": os.urandom(1000) for number in range(100)}
        for key, content in objects.items():
            put(key, content)
        wanted = [(remote, tmp_path / "there" / remote.key) for remote in storage.list("")]
        put("060", b"changed")
        with refused("/060 changed"):
            storage.download(wanted, tmp_path / "scratch")
        there = list((tmp_path / "there").iterdir())
        assert 0 < len(there) < len(objects)
        assert all(path.read_bytes() == objects[path.name] for path in there)
        assert list((tmp_path / "scratch").iterdir()) == []

    def test_each_is_announced_once_it_is_there(self, storage: Storage, put: Any, tmp_path: Path) -> None:
        for key in ("a", "b"):
            put(key, key.encode())
        announced = {}
        storage.download(
            [(remote, tmp_path / remote.key) for remote in storage.list("")],
            tmp_path / "scratch",
            lambda remote, path, sum_: announced.update({remote.key: (path.read_bytes(), sum_)}),
        )
        sums = {key: f"crc32:{zlib.crc32(key.encode()):08x}" for key in ("a", "b")}
        assert announced == {key: (key.encode(), sums[key]) for key in sums}

    def test_works_inside_a_running_loop(self, storage: Storage, put: Any, tmp_path: Path) -> None:
        put("key", b"content")

        async def notebook() -> None:
            storage.download([(storage.head("key"), tmp_path / "file")], tmp_path / "scratch")
            storage.upload([(tmp_path / "file", "again")])

        asyncio.run(notebook())
        assert (tmp_path / "file").read_bytes() == b"content"
        assert storage.head("again").size == len(b"content")

    def test_tag_that_is_no_checksum_is_found_out(
        self, storage: Storage, put: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # The server's tag is the MD5 sum: over a folder, whose tags are none, the check must not run.
        (tmp_path / "here").write_bytes(b"x")
        local, key = open_storage((tmp_path / "here").as_uri(), StorageConfig())
        remote = local.head(key)
        assert remote.etag != hashlib.md5(b"x").hexdigest()
        local.download([(remote, tmp_path / "there")], tmp_path / "scratch")
        assert (tmp_path / "there").read_bytes() == b"x"


def test_content_type_is_told(storage: Storage, s3_client: Any, bucket: str, tmp_path: Path) -> None:
    types = {"report.html": "text/html", "metrics.json": "application/json", "best.pth": "application/octet-stream"}
    for name in types:
        (tmp_path / name).write_text(json.dumps(name))
    storage.upload([(tmp_path / name, name) for name in types])
    assert {name: s3_client.head_object(Bucket=bucket, Key=name)["ContentType"] for name in types} == types
