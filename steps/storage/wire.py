"""HTTP requests that end when nothing moves any more, however long they take while something does."""

import math
import queue
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import pycurl

CONNECT_SECONDS = 10


@dataclass(frozen=True)
class Answer:
    """What a server answered; the names of headers are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: memoryview


class NoAnswerError(Exception):
    """A request did not get through, or its answer not back; `trust` where the server's certificate is the reason."""

    def __init__(self, reason: str, *, trust: bool = False) -> None:
        super().__init__(reason)
        self.trust = trust


class Wire:
    """Connections to one server, used again and again by any number of threads.

    libcurl, because of its stall time-out and because a request costs a tenth of a millisecond of the interpreter's.
    """

    def __init__(self, *, ca_bundle: str, stall_seconds: float, stop: threading.Event) -> None:
        """Set up the connections.

        Args:
            ca_bundle: file of the certificates to trust.
            stall_seconds: a request is given up once no byte moved for so long.
            stop: once it is set, requests under way end.
        """
        self._ca_bundle = ca_bundle
        self._stall_seconds = stall_seconds
        self._stop = stop
        self._idle: queue.LifoQueue[Any] = queue.LifoQueue()

    def send(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        body: bytes | memoryview = b"",
        into: memoryview | None = None,
    ) -> Answer:
        """Send a request and wait for the whole answer, whose body goes to the beginning of `into`, if that is given.

        Raises:
            NoAnswerError: there is none, or not all of it.
        """
        try:
            curl = self._idle.get_nowait()
        except queue.Empty:
            curl = pycurl.Curl()
        received = BytesIO()
        arrived = 0

        def fill(data: bytes) -> int:
            nonlocal arrived
            end = arrived + len(data)
            if into is None or end > len(into):
                return 0  # Ends the request.
            into[arrived:end] = data
            arrived = end
            return len(data)

        lines: list[bytes] = []
        given = 0

        def give(size: int) -> bytes:
            nonlocal given
            data = bytes(body[given : given + size])
            given += len(data)
            return data

        def rewind(offset: int, whence: int) -> None:
            nonlocal given
            given = offset

        try:
            curl.setopt(pycurl.URL, url)
            curl.setopt(pycurl.NOSIGNAL, 1)
            curl.setopt(pycurl.HTTP_VERSION, pycurl.CURL_HTTP_VERSION_1_1)
            curl.setopt(pycurl.CAINFO, self._ca_bundle)
            curl.setopt(pycurl.CONNECTTIMEOUT_MS, round(1000 * min(CONNECT_SECONDS, self._stall_seconds)))
            curl.setopt(pycurl.LOW_SPEED_LIMIT, 1)
            curl.setopt(pycurl.LOW_SPEED_TIME, math.ceil(self._stall_seconds))
            curl.setopt(pycurl.BUFFERSIZE, 512 * 1024)
            curl.setopt(pycurl.WRITEFUNCTION, received.write if into is None else fill)
            curl.setopt(pycurl.HEADERFUNCTION, lines.append)
            curl.setopt(pycurl.NOPROGRESS, 0)
            curl.setopt(pycurl.XFERINFOFUNCTION, lambda *_: self._stop.is_set())
            if method == "HEAD":
                curl.setopt(pycurl.NOBODY, 1)
            elif method in ("PUT", "POST"):
                curl.setopt(pycurl.UPLOAD, 1)
                curl.setopt(pycurl.READFUNCTION, give)
                curl.setopt(pycurl.SEEKFUNCTION, rewind)
                curl.setopt(pycurl.INFILESIZE_LARGE, len(body))
            if method not in ("GET", "HEAD", "PUT"):
                curl.setopt(pycurl.CUSTOMREQUEST, method)
            # A server that waits for "Expect: 100-continue" costs a second where it was never told of it.
            curl.setopt(pycurl.HTTPHEADER, ["Expect:", *(f"{name}: {value}" for name, value in headers.items())])
            curl.perform()
            status = curl.getinfo(pycurl.RESPONSE_CODE)
        except pycurl.error as error:
            curl.close()  # With its connection, whose state nobody knows.
            number, reason = error.args
            trust = number in (pycurl.E_PEER_FAILED_VERIFICATION, pycurl.E_SSL_CACERT_BADFILE)
            raise NoAnswerError(" ".join(reason.split()) or f"curl error {number}", trust=trust) from None
        curl.reset()  # Lets go of the bytes; the connection stays.
        self._idle.put(curl)
        found: dict[str, str] = {}
        for line in lines:
            name, colon, value = line.decode("latin-1").partition(":")
            if colon:
                found[name.lower()] = value.strip()
            elif line.startswith(b"HTTP/"):  # Of the last answer only, where an interim one came before it.
                found = {}
        return Answer(status, found, received.getbuffer() if into is None else into[:arrived])
