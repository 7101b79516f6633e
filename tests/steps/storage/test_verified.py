"""What arrives is what was sent, or is refused: the store's own checksums, both ways."""

from __future__ import annotations

import calendar
import errno
import hashlib
import os
import ssl
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import trustme
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from pipelines.local.s3_server import S3Server
from steps.common.errors import EXIT_TEMPORARY, EXIT_USER_ERROR, StepError, TemporaryError
from steps.dump.journal import Journal
from steps.storage import transfer
from steps.storage.checksums import Sums, Tally
from steps.storage.config import StorageConfig
from steps.storage.objects import RemoteObject
from steps.storage.signing import signed
from steps.storage.store import Storage, open_storage
from steps.storage.threads import BUFFERS
from tests.faults.proxy import Proxy, proxy
from tests.steps.refusals import refused

HALF = 5 * 1024 * 1024


@pytest.fixture
def between(s3: S3Server, bucket: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    with proxy(s3.endpoint) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", server.endpoint)
        yield server


@pytest.fixture
def storage(between: Proxy) -> Storage:
    return open_storage("", StorageConfig.resolve())[0]


def put_in_parts(client: Any, bucket: str, key: str, content: bytes, algorithm: str = "") -> None:
    """Put an object in parts of 5 MiB, with the checksums of that algorithm."""
    where = {"Bucket": bucket, "Key": key}
    extra = {"ChecksumAlgorithm": algorithm} if algorithm else {}
    kind = {"ChecksumType": "FULL_OBJECT"} if algorithm == "CRC64NVME" else {}
    upload = client.create_multipart_upload(**where, **extra, **kind)["UploadId"]
    parts = []
    for number, start in enumerate(range(0, len(content), HALF), 1):
        body = content[start : start + HALF]
        part = client.upload_part(**where, UploadId=upload, PartNumber=number, Body=body, **extra)
        sums = {name: value for name, value in part.items() if algorithm and name == f"Checksum{algorithm}"}
        parts.append({"PartNumber": number, "ETag": part["ETag"], **sums})
    client.complete_multipart_upload(**where, UploadId=upload, MultipartUpload={"Parts": parts})


@pytest.mark.parametrize("algorithm", ["", "SHA256", "CRC32", "CRC32C", "CRC64NVME"])
def test_object_in_parts(
    storage: Storage, between: Proxy, s3_client: Any, bucket: str, tmp_path: Path, algorithm: str
) -> None:
    """One flipped bit is fetched again, the same one twice is refused."""
    content = os.urandom(2 * HALF + 12345)
    put_in_parts(s3_client, bucket, "large", content, algorithm)
    [remote] = storage.list("")
    flips = iter(["flip"])
    between.fault = lambda method, path: next(flips, "") if method == "GET" and "large" in path else ""
    storage.download([(remote, tmp_path / "file")], tmp_path / "scratch")
    assert (tmp_path / "file").read_bytes() == content

    between.fault = lambda method, path: "flip" if method == "GET" and "large" in path else ""
    sum_ = algorithm or "MD5"
    with refused(f"/large is not what its {sum_} sum in the store says", "put it there again"):
        storage.download([(remote, tmp_path / "again")], tmp_path / "scratch")
    assert not (tmp_path / "again").exists()


def test_one_doubt_does_not_end_checking(storage: Storage, between: Proxy, put: Any, tmp_path: Path) -> None:
    for key in ("a", "b", "c"):
        put(key, os.urandom(100))
    flips = {"/a": 1, "/b": 1, "/c": 2}

    def fault(method: str, path: str) -> str:
        name = path[-2:]
        flips[name] = flips.get(name, 0) - 1
        return "flip" if flips[name] >= 0 and method == "GET" else ""

    between.fault = fault
    with pytest.raises(StepError, match=r"/c is not what its .* sum in the store says, twice alike") as caught:
        storage.download([(remote, tmp_path / remote.key) for remote in storage.list("")], tmp_path / "scratch")
    assert caught.value.exit_status == EXIT_USER_ERROR


def test_tag_that_is_no_md5_sum_is_known_by_its_headers() -> None:
    tag = "0" * 32
    assert Sums.of({"etag": f'"{tag}"'}).expected is not None
    for name, value in {
        "x-amz-server-side-encryption": "aws:kms",
        "x-amz-server-side-encryption-customer-algorithm": "AES256",
    }.items():
        assert Sums.of({"etag": f'"{tag}"', name: value}).expected is None
        # Its checksum counts even then.
        sums = Sums.of({"etag": f'"{tag}"', name: value, "x-amz-checksum-crc32": "AAAAAA=="})
        tally = Tally(sums.expected)
        tally.add(b"x")
        assert not tally.agrees
    # Encrypted with the store's own key, the tag stays what it is.
    assert Sums.of({"etag": f'"{tag}"', "x-amz-server-side-encryption": "AES256"}).expected is not None


@pytest.mark.parametrize("sizes", [[5, 5, 1], [5, 7, 3]])
@pytest.mark.parametrize("told", [True, False])
def test_sizes_of_parts(sizes: list[int], told: bool) -> None:
    """Of unequal parts each is asked for; a store that does not tell them has probably whole mebibytes."""
    mebibyte = 1024 * 1024
    bodies = [os.urandom(size * mebibyte) for size in sizes]
    md5s = b"".join(hashlib.md5(body).digest() for body in bodies)
    sums = Sums(etag=f"{hashlib.md5(md5s).hexdigest()}-{len(bodies)}")
    size = sum(map(len, bodies))
    sums = sums.with_parts(size, lambda number: len(bodies[number - 1]) if told else size)
    tally = Tally(sums.expected)
    for body in bodies:
        tally.add(body)
    assert tally.agrees == (told or sizes == [5, 5, 1])
    assert sums.guessed == (not told)


def test_upload_of_a_flipped_bit_is_sent_again(
    storage: Storage, between: Proxy, s3_client: Any, bucket: str, tmp_path: Path
) -> None:
    (tmp_path / "file").write_bytes(os.urandom(100))
    flips = iter(["flip sent"])
    between.fault = lambda method, path: next(flips, "") if method == "PUT" else ""
    [sent] = storage.upload([(tmp_path / "file", "key")])
    content = s3_client.get_object(Bucket=bucket, Key="key")["Body"].read()
    assert content == (tmp_path / "file").read_bytes()
    assert sent.sha256 == hashlib.sha256(content).hexdigest()


def test_store_that_does_not_look_is_compared_with(storage: Storage, between: Proxy, tmp_path: Path) -> None:
    """The tag that comes back is another one than the file's."""
    (tmp_path / "file").write_bytes(b"x")
    between.fault = lambda method, path: "other tag" if method == "PUT" else ""
    with pytest.raises(StepError) as caught:
        storage.upload([(tmp_path / "file", "key")])
    assert caught.value.exit_status == EXIT_TEMPORARY


def test_disk_that_takes_a_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda descriptor, body, offset: write(descriptor, body[:3], offset))
    with (tmp_path / "file").open("wb", buffering=0) as file:
        transfer.write_at(file.fileno(), memoryview(b"0123456789"), 0, tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == b"0123456789"


def test_only_what_failed_is_asked_for_again(storage: Storage, between: Proxy, put: Any, tmp_path: Path) -> None:
    for number in range(100):
        put(f"{number:03}", os.urandom(100))
    wanted = [(remote, tmp_path / remote.key) for remote in storage.list("")]
    faults = {"001": "ServiceUnavailable", "050": "reset", "051": "cut", "099": "flip"}
    between.fault = lambda method, path: faults.pop(path[-3:], "")
    before = len(between.requests)
    storage.download(wanted, tmp_path / "scratch")
    asked = Counter(path[-3:] for _, path in between.requests[before:])
    assert {name for name, times in asked.items() if times > 1} == {"001", "050", "051", "099"}
    assert sum(asked.values()) == 104
    assert all(path.is_file() for _, path in wanted)


def test_nothing_arrives_of_what_was_told_to_stop(storage: Storage, put: Any, tmp_path: Path) -> None:
    put("key", b"content")
    wanted = [(remote, tmp_path / remote.key) for remote in storage.list("")]
    storage._bucket.stop.set()
    with pytest.raises(TemporaryError, match="told to stop"):
        storage.download(wanted, tmp_path / "scratch")
    assert not (tmp_path / "key").exists()


def test_failing_disk_ends_it_with_parts_still_to_come(
    storage: Storage, put: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is lent to those under way comes back, though fewer buffers than parts are there."""
    monkeypatch.setattr(transfer, "PART_BYTES", 2 * transfer.SMALL_BYTES)
    free = BUFFERS.free
    put("large", os.urandom(2 * transfer.SMALL_BYTES * 3 * free))

    def full(descriptor: int, body: memoryview, offset: int) -> int:
        time.sleep(1)  # Until all that there is memory for has arrived.
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    [remote] = storage.list("")
    with pytest.raises(OSError, match="No space left"):
        storage.download([(remote, tmp_path / "large")], tmp_path / "scratch")
    assert BUFFERS.free == free


@pytest.mark.parametrize("memory", [transfer.MEMORY_BYTES, transfer.PART_BYTES])
def test_slow_disks_are_written_to_by_others(
    storage: Storage, put: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, memory: int
) -> None:
    """Also where no more than one object may be in memory."""
    monkeypatch.setattr(transfer, "SLOW_SECONDS", -1.0)
    monkeypatch.setattr(transfer, "MEMORY_BYTES", memory)
    objects = {f"{number:03}": os.urandom(1000) for number in range(100)}
    for key, content in objects.items():
        put(key, content)
    writers = set()
    write = os.pwrite

    def noted(descriptor: int, body: memoryview, offset: int) -> int:
        writers.add(threading.current_thread())
        return write(descriptor, body, offset)

    monkeypatch.setattr(os, "pwrite", noted)
    storage.download([(remote, tmp_path / remote.key) for remote in storage.list("")], tmp_path / "scratch")
    assert {key: (tmp_path / key).read_bytes() for key in objects} == objects
    assert writers
    assert threading.main_thread() not in writers


def test_file_of_another_time_is_summed_before_it_is_fetched(tmp_path: Path) -> None:
    path, remote = tmp_path / "file", RemoteObject("file", 4, "tag")
    path.write_bytes(b"same")
    with Journal(tmp_path) as journal:
        journal.add(path, remote.version, f"md5:{hashlib.md5(b'same').hexdigest()}")
    os.utime(path, (1, 1))
    assert Journal(tmp_path).holds(path, remote.version)
    path.write_bytes(b"SAME")
    assert not Journal(tmp_path).holds(path, remote.version)


def test_empty_objects_cost_nothing_each(storage: Storage, between: Proxy, put: Any) -> None:
    for number in range(5):
        put(f"labels/{number}.txt", b"")
    put("labels/", b"")
    before = len(between.requests)
    assert len(storage.list("labels")) == 5
    assert len(between.requests) == before + 1


@pytest.mark.parametrize("key", ["a b", "#1", "100%", "ü 日本", "it's", "a+b&c=d", "~^`<>", "[b]{c}|*", "a/b?c"])
def test_signature_is_botocore_s(key: str) -> None:
    address = f"https://host:9000/bucket/{quote(key, safe='/~')}"
    keys = Credentials("access", "secret", "token")
    query = f"list-type=2&prefix={quote(key, safe='')}"
    request = AWSRequest("GET", f"{address}?{query}", {"x-amz-checksum-mode": "ENABLED"})
    S3SigV4Auth(keys, "s3", "eu-west-1").add_auth(request)
    moment = calendar.timegm(time.strptime(request.context["timestamp"], "%Y%m%dT%H%M%SZ"))
    headers = {"x-amz-checksum-mode": "ENABLED", "x-amz-content-sha256": request.headers["X-Amz-Content-SHA256"]}
    _, ours = signed(
        "GET", address, {"list-type": "2", "prefix": key}, headers, keys.get_frozen_credentials(), "eu-west-1", moment
    )
    assert ours["authorization"] == request.headers["Authorization"]


def test_authority_of_one_s_own(
    s3: S3Server, bucket: str, put: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One setting, AWS's, makes a certificate trusted, for whatever is asked."""
    put("key", b"content")
    authority, context = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    with proxy(s3.endpoint, context) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", server.endpoint)
        with refused(server.endpoint, "certificate", "AWS_CA_BUNDLE"):
            open_storage("key", StorageConfig.resolve())
        monkeypatch.setenv("AWS_CA_BUNDLE", str(tmp_path / "ca.pem"))
        storage, _ = open_storage("key", StorageConfig.resolve())
        storage.download([(storage.head("key"), tmp_path / "file")], tmp_path / "scratch")
        assert (tmp_path / "file").read_bytes() == b"content"


def test_seconds_are_numbers(no_aws: None, monkeypatch: pytest.MonkeyPatch) -> None:
    assert StorageConfig.resolve(environ={"STORAGE_STALL_SECONDS": "2.5"}) == StorageConfig(stall_seconds=2.5)
    with refused("STORAGE_RETRY_SECONDS is 'soon'", "number of seconds"):
        StorageConfig.resolve(environ={"STORAGE_RETRY_SECONDS": "soon"})
