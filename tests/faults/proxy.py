"""A proxy in front of an S3 server that does what networks and disks do."""

from __future__ import annotations

import http.client
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

Fault = Callable[[str, str], str]
"""Gives the name of the fault of a request, from its method and path; empty: none."""


STATUS = {"ServiceUnavailable": 503, "ExpiredToken": 400, "NoSuchBucket": 404}
"""Refusals, by their codes."""


def no_fault(method: str, path: str) -> str:
    """Let everything pass."""
    return ""


class Proxy(ThreadingHTTPServer):
    """Passes requests on, but for what `fault` says of each."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, upstream: str, tls: ssl.SSLContext | None = None) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.scheme = "https" if tls else "http"
        # So that who sends notices when nobody reads.
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
        if tls:
            self.socket = tls.wrap_socket(self.socket, server_side=True)
        self.upstream = urlsplit(upstream)
        self.fault: Fault = no_fault
        self.requests: list[tuple[str, str]] = []
        self.waited_for = False
        """A client waited for an answer that never came, for a quarter of a minute."""

    @property
    def endpoint(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients that went away are what this is for."""


@contextmanager
def proxy(upstream: str, tls: ssl.SSLContext | None = None) -> Iterator[Proxy]:
    """Run a proxy for the duration of the block, which speaks TLS where it is given a certificate."""
    with Proxy(upstream, tls) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def _pieces(size: int, fault: str) -> Iterator[int]:
    """Sizes of what is moved at once; slowly: for longer than a stall is borne, and never still for so long."""
    if fault != "slow":
        yield size
        return
    for start in range(0, size, size // 6 + 1):
        yield min(size // 6 + 1, size - start)
        time.sleep(0.5)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Proxy

    def log_message(self, *arguments: object) -> None: ...

    def _forward(self) -> None:
        self.server.requests.append((self.command, self.path))
        fault = self.server.fault(self.command, self.path)
        body, size = bytearray(), int(self.headers.get("Content-Length") or 0)
        for piece in _pieces(size, fault):
            body += self.rfile.read(piece)
        if len(body) < size:  # Whoever was sending it is dead.
            self.close_connection = True
            return
        if fault == "silent":
            self.connection.settimeout(15)
            try:
                self.connection.recv(1)  # Nothing comes but the end.
            except TimeoutError:
                self.server.waited_for = True
            self.close_connection = True
            return
        if fault == "reset":
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.shutdown(socket.SHUT_RD)
            self.close_connection = True
            return
        if fault in STATUS:
            self._answer(STATUS[fault], {}, f"<Error><Code>{fault}</Code></Error>".encode())
            return
        if fault == "flip sent" and body:
            body[len(body) // 2] ^= 1
        upstream = http.client.HTTPConnection(self.server.upstream.hostname or "", self.server.upstream.port)
        try:
            upstream.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                upstream.putheader(name, value)
            upstream.endheaders(bytes(body))
            answer = upstream.getresponse()
            content = bytearray(answer.read())
            headers = {name: value for name, value in answer.getheaders() if name.lower() != "transfer-encoding"}
        finally:
            upstream.close()
        if fault == "flip" and content:
            content[len(content) // 2] ^= 1
        if fault == "other tag":
            headers["ETag"] = f'"{"0" * 32}"'
        self._answer(answer.status, headers, bytes(content), fault)

    def _answer(self, status: int, headers: dict[str, str], content: bytes, fault: str = "") -> None:
        self.send_response_only(status)
        for name, value in headers.items():
            if name.lower() != "content-length" or self.command == "HEAD":
                self.send_header(name, value)
        if self.command != "HEAD" and status != 204:
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command == "HEAD":
            return
        if fault == "cut":
            self.wfile.write(content[: len(content) // 2])
            self.close_connection = True
            return
        for piece in _pieces(len(content), fault):
            self.wfile.write(content[:piece])
            content = content[piece:]

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _forward  # noqa: N815 - names of the library's
