import os
import signal
import subprocess
import sys
from pathlib import Path

import boto3
import psutil
import pytest
from botocore.exceptions import ClientError

from pipelines.local.s3_server import s3_server
from tests.processes import hear_ctrl_c


def test_every_listener_is_on_loopback_and_gone_afterwards() -> None:
    with s3_server() as server:
        process = psutil.Process(server.pid)
        listening = [each.laddr for each in process.net_connections("inet") if each.status == psutil.CONN_LISTEN]
        server.client().create_bucket(Bucket="bucket")
        server.client().put_object(Bucket="bucket", Key="a/b", Body=b"content")
        assert server.client().get_object(Bucket="bucket", Key="a/b")["Body"].read() == b"content"
    assert listening
    assert {address.ip for address in listening} == {"127.0.0.1"}
    assert not psutil.pid_exists(server.pid)


def test_two_servers_run_side_by_side() -> None:
    with s3_server() as one, s3_server() as other:
        one.client().create_bucket(Bucket="only-here")
        assert [bucket["Name"] for bucket in one.client().list_buckets()["Buckets"]] == ["only-here"]
        assert other.client().list_buckets()["Buckets"] == []


def test_strangers_are_refused() -> None:
    with s3_server() as server:
        stranger = boto3.client(
            "s3",
            endpoint_url=server.endpoint,
            aws_access_key_id=server.access_key,
            aws_secret_access_key="guessed",
            region_name="us-east-1",
        )
        with pytest.raises(ClientError, match="SignatureDoesNotMatch"):
            stranger.list_buckets()
    assert server.secret_key not in repr(server)


def test_an_exception_stops_the_server(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), s3_server() as server:
        _ = 1 / 0
    assert not psutil.pid_exists(server.pid)


def test_ctrl_c_stops_the_server() -> None:
    code = (
        "from pipelines.local.s3_server import s3_server\nwith s3_server() as s:\n print(s.pid, flush=True)\n input()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd=Path(__file__).parents[3],
        start_new_session=True,
        preexec_fn=hear_ctrl_c,
    )
    assert process.stdout is not None
    server = int(process.stdout.readline())
    assert psutil.pid_exists(server)
    os.killpg(process.pid, signal.SIGINT)
    process.wait(30)
    assert not psutil.pid_exists(server)
