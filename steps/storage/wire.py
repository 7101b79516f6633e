"""HTTP requests that end when nothing moves any more, however long they take while something does."""

import math
import queue
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import pycurl

CONNECT_SECONDS = 10
SHORTEST_SLEEP, LONGEST_SLEEP = 0.01, 0.2
"""In seconds, before it is looked whether there is more to do."""
END: Any = object()


@dataclass(frozen=True)
class Answer:
    """What a server answered; the names of headers are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: memoryview


@dataclass(frozen=True)
class Get:
    """A request for a body, `of` whatever the caller knows it by, which goes to the beginning of `into`, if given."""

    of: Any
    url: str
    headers: Mapping[str, str]
    into: memoryview | None = None


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
        exchange = _Exchange(body, into)
        try:
            self._set_up(curl)
            self._prepare(curl, exchange, method, url, headers)
            curl.setopt(pycurl.NOPROGRESS, 0)
            curl.setopt(pycurl.XFERINFOFUNCTION, lambda *_: self._stop.is_set())
            curl.perform()
            status = curl.getinfo(pycurl.RESPONSE_CODE)
        except pycurl.error as error:
            curl.close()  # With its connection, whose state nobody knows.
            raise _no_answer(*error.args) from None
        curl.reset()  # Lets go of the bytes; the connection stays.
        self._idle.put(curl)
        return exchange.answer(status)

    def get_many(self, wanted: Iterator[Get | None], at_once: int) -> Iterator[Sequence[tuple[Get, Answer | None]]]:
        """Send many requests, each once, from a single thread: callbacks of many would wait for the interpreter.

        Args:
            wanted: asked for the next request when one can be sent; None where it has none for now.
            at_once: how many are under way at most.

        Yields:
            Those that came to an end; None for whichever has no answer, or not all of it.

        Raises:
            NoAnswerError: it was told to stop.
        """
        multi, under_way, idle = pycurl.CurlMulti(), dict[Any, tuple[Get, _Exchange]](), list[Any]()
        more = True
        try:
            while True:
                if self._stop.is_set():
                    raise NoAnswerError("told to stop")
                while more and len(under_way) < at_once:
                    get = next(wanted, END)
                    if get is None:
                        break
                    if get is END:
                        more = False
                        break
                    curl, exchange = idle.pop() if idle else self._curl(), _Exchange(b"", get.into)
                    self._prepare(curl, exchange, "GET", get.url, get.headers)
                    under_way[curl] = get, exchange
                    multi.add_handle(curl)
                if not more and not under_way:
                    return
                multi.perform()
                _, arrived, failed = multi.info_read(at_once)
                ended: list[tuple[Get, Answer | None]] = []
                for curl in arrived:
                    multi.remove_handle(curl)
                    get, exchange = under_way.pop(curl)
                    ended.append((get, exchange.answer(curl.getinfo(pycurl.RESPONSE_CODE))))
                    curl.setopt(pycurl.WRITEFUNCTION, len)  # Lets go of the bytes.
                    idle.append(curl)
                for curl, *_ in failed:
                    multi.remove_handle(curl)
                    ended.append((under_way.pop(curl)[0], None))
                    curl.close()
                if ended:
                    yield ended
                elif multi.select(LONGEST_SLEEP) < 0:  # It has nothing to wait for yet.
                    time.sleep(SHORTEST_SLEEP)
        finally:
            for curl in under_way:
                multi.remove_handle(curl)
            multi.close()

    def _curl(self) -> Any:
        curl = pycurl.Curl()
        self._set_up(curl)
        return curl

    def _set_up(self, curl: Any) -> None:
        """Set what is the same for all requests."""
        curl.setopt(pycurl.NOSIGNAL, 1)
        curl.setopt(pycurl.HTTP_VERSION, pycurl.CURL_HTTP_VERSION_1_1)
        curl.setopt(pycurl.CAINFO, self._ca_bundle)
        curl.setopt(pycurl.CONNECTTIMEOUT_MS, round(1000 * min(CONNECT_SECONDS, self._stall_seconds)))
        curl.setopt(pycurl.LOW_SPEED_LIMIT, 1)
        curl.setopt(pycurl.LOW_SPEED_TIME, math.ceil(self._stall_seconds))
        curl.setopt(pycurl.BUFFERSIZE, 512 * 1024)

    def _prepare(self, curl: Any, exchange: "_Exchange", method: str, url: str, headers: Mapping[str, str]) -> None:
        """Set what is one request's own."""
        curl.setopt(pycurl.URL, url)
        curl.setopt(pycurl.WRITEFUNCTION, exchange.received.write if exchange.into is None else exchange.fill)
        curl.setopt(pycurl.HEADERFUNCTION, exchange.lines.append)
        if method == "HEAD":
            curl.setopt(pycurl.NOBODY, 1)
        elif method in ("PUT", "POST"):
            curl.setopt(pycurl.UPLOAD, 1)
            curl.setopt(pycurl.READFUNCTION, exchange.give)
            curl.setopt(pycurl.SEEKFUNCTION, exchange.rewind)
            curl.setopt(pycurl.INFILESIZE_LARGE, len(exchange.body))
        if method not in ("GET", "HEAD", "PUT"):
            curl.setopt(pycurl.CUSTOMREQUEST, method)
        # A server that waits for "Expect: 100-continue" costs a second where it was never told of it.
        curl.setopt(pycurl.HTTPHEADER, ["Expect:", *(f"{name}: {value}" for name, value in headers.items())])


class _Exchange:
    """One request's bytes, on their way there and back."""

    __slots__ = ("arrived", "body", "given", "into", "lines", "received")

    def __init__(self, body: bytes | memoryview, into: memoryview | None) -> None:
        self.body = body
        self.into = into
        self.received = BytesIO()
        self.lines: list[bytes] = []
        self.arrived = self.given = 0

    def fill(self, data: bytes) -> int:
        end = self.arrived + len(data)
        if self.into is None or end > len(self.into):
            return 0  # Ends the request.
        self.into[self.arrived : end] = data
        self.arrived = end
        return len(data)

    def give(self, size: int) -> bytes:
        data = bytes(self.body[self.given : self.given + size])
        self.given += len(data)
        return data

    def rewind(self, offset: int, whence: int) -> None:
        self.given = offset

    def answer(self, status: int) -> Answer:
        found: dict[str, str] = {}
        for line in b"".join(self.lines).decode("latin-1").split("\n"):
            name, colon, value = line.partition(":")
            if colon:
                found[name.lower()] = value.strip()
            elif line.startswith("HTTP/"):  # Of the last answer only, where an interim one came before it.
                found = {}
        return Answer(status, found, self.received.getbuffer() if self.into is None else self.into[: self.arrived])


def _no_answer(number: int, reason: str) -> NoAnswerError:
    trust = number in (pycurl.E_PEER_FAILED_VERIFICATION, pycurl.E_SSL_CACERT_BADFILE)
    return NoAnswerError(" ".join(reason.split()) or f"curl error {number}", trust=trust)
