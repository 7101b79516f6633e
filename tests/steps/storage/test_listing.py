"""A server whose listing has no end."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from steps.storage.config import StorageConfig
from steps.storage.store import open_storage
from tests.steps.refusals import refused


class Endless(BaseHTTPRequestHandler):
    """Says that there is more, each time with another token, and gives nothing."""

    protocol_version = "HTTP/1.1"
    asked = 0

    def do_GET(self) -> None:
        Endless.asked += 1
        token = f"<NextContinuationToken>{Endless.asked}</NextContinuationToken><IsTruncated>true</IsTruncated>"
        body = f"<ListBucketResult><EncodingType>url</EncodingType>{token}</ListBucketResult>".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: object) -> None: ...


@pytest.fixture
def endpoint() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Endless) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_listing_without_end_is_refused(no_aws: None, endpoint: str) -> None:
    config = StorageConfig(bucket="b", endpoint=endpoint, access_key="a", secret_key="b")
    storage, key = open_storage("dumps", config)
    with refused("never ends its list of 'dumps/'", "check the server"):
        storage.list(key)
    assert Endless.asked < 200
