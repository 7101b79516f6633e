"""fetch and upload under every fault of a network, a disk and a neighbour: the undisturbed bytes, or one clear line."""

from __future__ import annotations

import hashlib
import json
import os
import random
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pipelines.local.s3_server import S3Server
from steps.common.errors import EXIT_TEMPORARY, EXIT_USER_ERROR
from steps.dump.target import LOCK
from tests.faults.matrix import Record, chance
from tests.faults.proxy import STATUS, Fault, Proxy, no_fault, proxy
from tests.processes import held

pytestmark = pytest.mark.faults

SMALL, LARGE = 12, 9 * 1024 * 1024
PROJECT = Path(__file__).resolve().parents[2]
STALL_SECONDS = 1
slow = pytest.mark.slow


class Case:
    """A step, its files, and what they should be in the end."""

    def __init__(self, step: str, folder: Path, bucket: str, client: Any, proxy: Proxy) -> None:
        self.step, self.folder, self.bucket, self.client, self.proxy = step, folder, bucket, client, proxy
        self.files = {f"images/{number:02}.bin": random.Random(number).randbytes(20_000) for number in range(SMALL)}
        self.files["large.bin"] = random.Random(-1).randbytes(LARGE)
        self.before: dict[str, bytes] = {}
        """What an earlier run has brought."""
        self.here = folder / "there" if step == "fetch" else folder / "output"
        if step == "fetch":
            for name, content in self.files.items():
                self.put(name, content)
        else:
            for name, content in self.files.items():
                self.write(name, content)

    def put(self, name: str, content: bytes) -> None:
        key, half = f"dump/{name}", 5 * 1024 * 1024
        if len(content) <= half:
            self.client.put_object(Bucket=self.bucket, Key=key, Body=content)
            return
        # In parts, and by a client that leaves no checksum: the tag of the parts is all that there is.
        where = {"Bucket": self.bucket, "Key": key}
        upload = self.client.create_multipart_upload(**where)["UploadId"]
        parts = []
        for number, start in enumerate(range(0, len(content), half), 1):
            body = content[start : start + half]
            part = self.client.upload_part(**where, UploadId=upload, PartNumber=number, Body=body)
            parts.append({"PartNumber": number, "ETag": part["ETag"]})
        self.client.complete_multipart_upload(**where, UploadId=upload, MultipartUpload={"Parts": parts})

    def write(self, name: str, content: bytes) -> None:
        path = self.here / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)

    def start(self, *, prepare: Callable[[], None] | None = None, **environment: str) -> subprocess.Popen[str]:
        arguments = {
            "fetch": ["--annotation-path", f"s3://{self.bucket}/dump", "--dataset-dir", str(self.here)],
            "upload": ["--output-dir", str(self.here), "--output-path", f"s3://{self.bucket}/run"],
        }[self.step]
        settings = {
            "AWS_ENDPOINT_URL_S3": self.proxy.endpoint,
            "STORAGE_RETRY_SECONDS": "20",
            "STORAGE_STALL_SECONDS": str(STALL_SECONDS),
        }
        return subprocess.Popen(
            [sys.executable, "-m", "steps", self.step, *arguments],
            env={**os.environ, **settings, **environment},
            cwd=PROJECT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=prepare,
        )

    def right(self) -> bool:
        """Tell whether everything is there, and as it should be."""
        if self.step == "fetch":
            return {
                path.relative_to(self.here).as_posix(): path.read_bytes()
                for path in self.here.rglob("*")
                if path.is_file() and ".fetch" not in path.parts
            } == self.files
        if self.client.list_multipart_uploads(Bucket=self.bucket).get("Uploads"):
            return False  # Parts that nobody will ever make an object of.
        wanted = {f"run/{name}": hashlib.sha256(content).hexdigest() for name, content in self.files.items()}
        return self.vouched() == wanted == {key: sum_ for key, sum_ in self.there().items() if key in wanted}

    def there(self) -> dict[str, str]:
        keys = [
            each["Key"] for each in self.client.list_objects_v2(Bucket=self.bucket, Prefix="run/").get("Contents", [])
        ]
        bodies = {key: self.client.get_object(Bucket=self.bucket, Key=key)["Body"].read() for key in keys}
        self.manifest = bodies.get("run/manifest.json")
        return {key: hashlib.sha256(body).hexdigest() for key, body in bodies.items()}

    def vouched(self) -> dict[str, str]:
        """What the manifest says."""
        self.there()
        files = json.loads(self.manifest)["files"] if self.manifest else []
        return {each["key"]: each["sha256"] for each in files}

    def truthful(self) -> bool:
        """Tell whether nothing wrong is called complete."""
        if self.step == "fetch":
            files = {name: self.here / name for name in self.files}
            ours = {name: path.read_bytes() for name, path in files.items() if path.is_file()}
            return all(content in (self.files[name], self.before.get(name)) for name, content in ours.items())
        return self.vouched().items() <= self.there().items()

    def settle(self, process: subprocess.Popen[str], *, timeout: float = 120) -> tuple[str, bool]:
        """Wait for the end, and try again undisturbed where it was not reached; tell what happened, and if well."""
        _, said = process.communicate(timeout=timeout)
        self.proxy.fault = no_fault
        status = process.returncode
        if status == 0:
            return "the right bytes", self.right()
        lines = said.strip().splitlines()
        plain = status < 0 or (status in (EXIT_USER_ERROR, EXIT_TEMPORARY, 128 + signal.SIGTERM) and len(lines) == 1)
        truthful = self.truthful()
        again = self.start(STORAGE_STALL_SECONDS="30")
        _, said_again = again.communicate(timeout=timeout)
        how = (
            f"ended by signal {-status}" if status < 0 else f"status {status}: {lines[-1][:90] if lines else 'silent'}"
        )
        how = (
            how.replace(self.bucket, "bucket")
            .replace(self.proxy.endpoint, "the endpoint")
            .replace(str(self.folder), "")
        )
        if again.returncode:
            return f"{how}; then {said_again[-200:]}", False
        return f"{how}; right after a retry", plain and truthful and self.right()


@pytest.fixture
def case(request: pytest.FixtureRequest, tmp_path: Path, s3: S3Server, bucket: str, s3_client: Any) -> Iterator[Case]:
    with proxy(s3.endpoint) as server:
        yield Case(request.param, tmp_path, bucket, s3_client, server)


both = pytest.mark.parametrize("case", ["fetch", "upload"], indirect=True)


def on(method: str, part: str, fault: str, times: float = 1) -> Fault:
    """Make a fault of the first requests of a kind."""
    met = 0

    def choose(asked: str, path: str) -> str:
        nonlocal met
        if asked == method and part in path:
            met += 1
            return fault if met <= times else ""
        return ""

    return choose


def for_seconds(seconds: float, fault: str) -> Fault:
    """Make a fault of whatever is asked in the next seconds, from the third request on."""
    asked, until = 0, 0.0

    def choose(method: str, path: str) -> str:
        nonlocal asked, until
        asked += 1
        if asked == 3:
            until = time.monotonic() + seconds
        return fault if asked >= 3 and time.monotonic() < until else ""

    return choose


REQUESTS = {"fetch": 19, "upload": 24}
"""Of a run that nothing disturbs, about."""
MOVES = {"fetch": "GET", "upload": "PUT"}
FLIPS = {"fetch": "flip", "upload": "flip sent"}


@both
@pytest.mark.parametrize("what", ["small", "multipart"])
def test_one_flipped_bit(case: Case, record: Record, what: str) -> None:
    case.proxy.fault = on(MOVES[case.step], "large.bin" if what == "multipart" else "05.bin", FLIPS[case.step])
    record(case.step, f"one flipped bit, {what}", *case.settle(case.start()))


@pytest.mark.parametrize("case", ["upload"], indirect=True)
def test_one_flipped_bit_in_the_manifest(case: Case, record: Record) -> None:
    case.proxy.fault = on("PUT", "manifest.json", "flip sent")
    record("upload", "one flipped bit, small", *case.settle(case.start()))


@pytest.mark.parametrize("case", ["fetch"], indirect=True)
def test_a_folder_in_use(case: Case, record: Record) -> None:
    with held(case.here, "prepare", LOCK) as holder:
        process = case.start()
        _, said = process.communicate(timeout=120)
    ok = process.returncode == EXIT_TEMPORARY and f"process {holder}" in said and len(said.splitlines()) == 1
    record("fetch", "two at once", "status 75, with the name of who is at work", ok and case.start().wait(120) == 0)
    assert case.right()


@both
@pytest.mark.parametrize(
    ("fault", "times"),
    [
        pytest.param("reset", 3, marks=slow),
        pytest.param("cut", 3, marks=slow),
        ("silent", 3),
        # Each time: what is given up may not pass at the next attempt.
        pytest.param("slow", 1000, marks=slow),
        pytest.param("ExpiredToken", 1000, marks=slow),
        pytest.param("NoSuchBucket", 1000, marks=slow),
    ],
)
def test_requests_that_fail(case: Case, record: Record, fault: str, times: int) -> None:
    # A small body is sent at once however slowly it is read.
    what = "large.bin" if (fault, case.step) == ("slow", "upload") else ".bin"
    case.proxy.fault = on(MOVES[case.step], what, fault, times)
    process = case.start()
    outcome, ok = case.settle(process)
    name = "expired credentials" if fault == "ExpiredToken" else fault
    record(case.step, name, outcome, ok and not case.proxy.waited_for)
    assert process.returncode == (EXIT_USER_ERROR if fault in STATUS else 0)


@slow
@both
@pytest.mark.parametrize("seconds", [5, 40])
def test_outage(case: Case, record: Record, seconds: int) -> None:
    case.proxy.fault = for_seconds(seconds, "ServiceUnavailable")
    process = case.start(STORAGE_RETRY_SECONDS="120")
    record(case.step, f"503 for {seconds} s", *case.settle(process))
    assert process.returncode == 0


@both
def test_outage_that_does_not_end(case: Case, record: Record) -> None:
    case.proxy.fault = for_seconds(1000, "ServiceUnavailable")
    process = case.start(STORAGE_RETRY_SECONDS="1")
    record(case.step, "503 without end", *case.settle(process))
    assert process.returncode == EXIT_TEMPORARY


@both
@pytest.mark.parametrize(
    ("how", "number"),
    [
        (signal.SIGKILL, 0),
        *(pytest.param(signal.SIGKILL, number, marks=slow) for number in range(1, 8)),
        *(pytest.param(signal.SIGTERM, number, marks=slow) for number in range(3)),
    ],
)
def test_killed(case: Case, record: Record, how: signal.Signals, number: int) -> None:
    """At a moment that nobody chose, between the first request and the last."""
    numbers = chance(f"{case.step} {how} {number}")
    moment, delay = numbers.randint(1, REQUESTS[case.step]), numbers.uniform(0, 0.05)

    def choose(method: str, path: str) -> str:
        if len(case.proxy.requests) == moment:
            threading.Timer(delay, process.send_signal, [how]).start()
        return ""

    case.proxy.fault = choose
    process = case.start()
    record(case.step, "kill -9" if how == signal.SIGKILL else how.name, *case.settle(process))


@both
def test_full_disk(case: Case, record: Record) -> None:
    """By a limit on the size of a file, at which a disk takes a part of what is written first, as when it fills up."""
    limit = 8 * 1024 * 1024 + 12345 if case.step == "fetch" else 64

    def fill() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    process = case.start(prepare=fill)
    record(case.step, "full disk", *case.settle(process))
    assert process.returncode == EXIT_USER_ERROR


@slow
def test_full_file_system(case_on_tmpfs: Case, record: Record) -> None:
    process = case_on_tmpfs.start()
    _, said = process.communicate(timeout=120)
    large = case_on_tmpfs.here / "large.bin"
    ok = process.returncode == EXIT_USER_ERROR and "Traceback" not in said and not large.exists()
    record("fetch", "full disk (tmpfs)", f"status {process.returncode}: {said.strip()[-60:]}", ok)


@pytest.fixture
def case_on_tmpfs(tmp_path: Path, s3: S3Server, bucket: str, s3_client: Any) -> Iterator[Case]:
    (tmp_path / "there").mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={LARGE + 2_000_000}", "tmpfs", str(tmp_path / "there")]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("file systems may not be mounted here")
    try:
        (tmp_path / "there" / "ballast").write_bytes(bytes(100_000))
        with proxy(s3.endpoint) as server:
            case = Case("fetch", tmp_path, bucket, s3_client, server)
            # It fills up after fetch has looked.
            case.proxy.fault = lambda method, path: (
                (case.here / "ballast").write_bytes(bytes(LARGE // 2)) and "" if "large.bin" in path else ""
            )
            yield case
    finally:
        subprocess.run(["umount", str(tmp_path / "there")], check=True)


@slow
@both
def test_vanished(case: Case, record: Record) -> None:
    gone = "images/11.bin"

    def choose(method: str, path: str) -> str:
        if path.endswith("00.bin") and gone in case.files:
            del case.files[gone]
            if case.step == "fetch":
                case.client.delete_object(Bucket=case.bucket, Key=f"dump/{gone}")
            else:
                (case.here / gone).unlink()
        return "slow" if path.endswith("00.bin") and case.step == "fetch" else ""

    case.proxy.fault = choose
    record(case.step, "vanished", *case.settle(case.start()))


@both
def test_changed(case: Case, record: Record) -> None:
    other = random.Random(-2).randbytes(LARGE)

    def choose(method: str, path: str) -> str:
        # Once the first bytes of it are on their way.
        if (
            "large.bin" in path
            and method == MOVES[case.step]
            and "uploads" not in path
            and case.files["large.bin"] != other
        ):
            case.files["large.bin"] = other
            if case.step == "fetch":
                case.put("large.bin", other)
            else:
                case.write("large.bin", other)
        return ""

    case.proxy.fault = choose
    record(case.step, "changed", *case.settle(case.start()))


@slow
@both
def test_two_at_once(case: Case, record: Record) -> None:
    one, other = case.start(), case.start()
    _, said = other.communicate(timeout=120)
    plain = other.returncode in (0, EXIT_USER_ERROR, EXIT_TEMPORARY) and len(said.strip().splitlines()) <= 1
    outcome, ok = case.settle(one)
    record(case.step, "two at once", f"{outcome}; the other: status {other.returncode}", ok and plain)


@both
def test_changed_settings(case: Case, record: Record) -> None:
    """Another dump, or another run, to the same place, killed half way: nothing of both is called one."""
    assert case.start().wait(120) == 0
    if case.step == "fetch":
        for key in [f"dump/{name}" for name in case.files]:
            case.client.delete_object(Bucket=case.bucket, Key=key)
    else:
        for name in case.files:
            (case.here / name).unlink()
    case.before = case.files
    case.files = {f"other/{number}.bin": random.Random(50 + number).randbytes(20_000) for number in range(SMALL)}
    case.files["images/03.bin"] = b"another one"
    for name, content in case.files.items():
        (case.put if case.step == "fetch" else case.write)(name, content)
    asked = len(case.proxy.requests)

    def choose(method: str, path: str) -> str:
        if len(case.proxy.requests) == asked + 9:
            process.kill()
            return "silent"
        return ""

    case.proxy.fault = choose
    process = case.start()
    outcome, ok = case.settle(process)
    if case.step == "upload":
        ok = ok and set(case.there()) == {*(f"run/{name}" for name in case.files), "run/manifest.json"}
    record(case.step, "changed settings", outcome, ok)
