import http.client
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

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


def test_inner_doors_are_closed_to_other_users() -> None:
    """The server's parts listen on loopback, where every user of the machine is: none lets them in."""
    with s3_server() as server:
        server.client().create_bucket(Bucket="bucket")
        server.client().put_object(Bucket="bucket", Key="secret", Body=b"content" * 1000)
        listening = psutil.Process(server.pid).net_connections("inet")
        ports = {each.laddr.port for each in listening if each.status == psutil.CONN_LISTEN}
        spoken, key = 0, "/buckets/bucket/secret"
        for port in ports - {urlsplit(server.endpoint).port}:
            for method, path in [
                ("GET", key),
                ("GET", "/buckets/?limit=9"),
                ("PUT", key),
            ]:
                connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
                try:
                    connection.request(method, path, body=b"other" if method == "PUT" else None)
                    answer = connection.getresponse()
                    content = answer.read()
                except (OSError, http.client.HTTPException):
                    continue  # Not HTTP: gRPC, which asks for a certificate.
                finally:
                    connection.close()
                spoken += 1
                assert answer.status >= 400 or method == "GET", (port, path, answer.status)
                assert b"content" not in content, (port, path)
                assert b"secret" not in content, (port, path)
            # A gRPC server without certificates answers the beginning of HTTP/2 with settings, frame type 4.
            with socket.create_connection(("127.0.0.1", port), timeout=10) as plain:
                plain.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0]))
                plain.settimeout(2)
                try:
                    answered = plain.recv(9)
                except OSError:
                    answered = b""
            assert answered[3:4] != b"\x04", port
        assert spoken
        assert server.client().get_object(Bucket="bucket", Key="secret")["Body"].read() == b"content" * 1000


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
