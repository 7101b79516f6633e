"""A session on a CVAT server, and what its refusals become: one line that names the server.

Login, TLS and connections are the SDK's. Its generated models are left out wherever JSON will do: they refuse what
another version of the server leaves out or adds, and a server's API changes less than they do.
"""

import json
import logging
import os
import ssl
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from steps.common.errors import StepError, TemporaryError
from steps.common.messages import printable

# cvat_sdk takes a second to import, and a pod that fetches from a bucket has none.

log = logging.getLogger(__name__)

TRIES = 4
"""How often a request that changes nothing is sent to a server that fails."""
SECONDS_BETWEEN_TRIES = 1.0
SECONDS_BETWEEN_QUESTIONS = (0.2, 5.0)
"""How long to wait before the state of a request is asked for: at first, and at most."""
_PAGE = 100
_SECONDS = 300
"""How long an answer may keep us waiting: that with the annotations of a large task takes its time."""
_VARIABLES = "set CVAT_ACCESS_TOKEN, or CVAT_USERNAME and CVAT_PASSWORD"


class Server:
    """A server that knows who we are."""

    def __init__(self, host: str, *, cache_dir: Path | None = None) -> None:
        """Find out what server it is, and log in.

        Args:
            host: such as `https://cvat.example.com`.
            cache_dir: where the SDK keeps what it downloads.

        Raises:
            StepError: the SDK is not installed, no CVAT answers at `host`, or it refuses us.
            TemporaryError: `host` cannot be reached, or fails.
        """
        try:
            from cvat_sdk.core.client import Client, Config
        except ImportError:
            raise StepError(
                f"{host} is a CVAT server, for which cvat-sdk is not installed: pip install 'cvat-detr[cvat]'"
            ) from None
        self.host, self.version, self._by_token = host, "", False
        config = Config(cache_dir=cache_dir) if cache_dir else Config()
        with in_words(self):
            # The SDK's own check of the version crashes on servers older than it.
            self.client: Any = Client(host, logger=log.getChild("sdk"), config=config, check_server_version=False)
        self.client.logger.setLevel(logging.WARNING)
        about = self.get("/api/server/about")
        if not isinstance(about, dict) or "version" not in about:
            raise StepError(f"{host} is not a CVAT server: check the address")
        self.version = str(about["version"])
        self._login()

    def __enter__(self) -> "Server":
        return self

    def __exit__(self, *error: object) -> None:
        self.client.api_client.close()

    def _login(self) -> None:
        # PASS is what cvat-cli reads.
        user, password = os.environ.get("CVAT_USERNAME"), os.environ.get("CVAT_PASSWORD") or os.environ.get("PASS")
        token = os.environ.get("CVAT_ACCESS_TOKEN") or (None if user else self._saved_token())
        if token:
            try:
                from cvat_sdk.core.client import AccessTokenCredentials
            except ImportError:
                raise StepError(
                    "CVAT_ACCESS_TOKEN is set, and this cvat-sdk is from before there were access tokens: "
                    "pip install 'cvat-sdk>=2.48', or set CVAT_USERNAME and CVAT_PASSWORD instead"
                ) from None
            self.client.login(AccessTokenCredentials(token))
            self._by_token = True
        else:
            if not user or not password:
                raise StepError(f"{self.host} asks who you are: {_VARIABLES}")
            from cvat_sdk.exceptions import ApiException

            with in_words(self):
                try:
                    self.client.login((user, password))
                except ApiException as error:
                    if error.status in (400, 401):
                        raise StepError(
                            f"{self.host} does not know user '{printable(user)}' with this password: check "
                            "CVAT_USERNAME and CVAT_PASSWORD"
                        ) from None
                    raise
        # Only now is a wrong token noticed, and before anything else is said about tasks.
        self.get("/api/users/self")

    def _saved_token(self) -> str | None:
        """Give the token that `cvat-cli profile` keeps for this server."""
        try:
            from cvat_sdk.core.auth import AuthStore
        except ImportError:
            return None  # An SDK from before there were profiles.
        with in_words(self):
            profiles = AuthStore().list_profiles().values()
        return next((profile.token for profile in profiles if profile.server.rstrip("/") == self.host), None)

    def get(self, path: str, **query: Any) -> Any:
        """Ask for JSON; `query` becomes the address's. A server that fails is asked again.

        Raises:
            StepError: the server refuses.
            TemporaryError: it cannot be reached, or fails.
        """
        return self._json(self.open(path, query, whole=True))

    def pages(self, path: str, **query: Any) -> Iterator[dict[str, Any]]:
        """Give the elements of a list, which comes by the page."""
        page = 1
        while True:
            answer = self.get(path, **query, page=page, page_size=_PAGE)
            yield from answer["results"]
            if not answer.get("next"):
                return
            page += 1

    def open(self, path: str, query: Mapping[str, Any], *, whole: bool, start: int = 0) -> Any:
        """Send a GET, several times if need be, and give the response.

        Args:
            path: below the host.
            query: of the address.
            whole: read the body as well; else it is still to come.
            start: ask for the body from this byte on.
        """
        return self.patiently(
            path,
            lambda: self.client.api_client.call_api(
                path,
                "GET",
                query_params=list(query.items()),
                header_params={"Range": f"bytes={start}-"} if start else None,
                _parse_response=whole,
                _request_timeout=_SECONDS,
            )[1],
        )

    def patiently(self, what: str, ask: Callable[[], Any]) -> Any:
        """Call `ask`, which changes nothing, again where the server fails; `what` it asks for is for messages."""
        from cvat_sdk.exceptions import ApiException

        for attempt in range(1, TRIES + 1):
            with in_words(self, what):
                try:
                    return ask()
                except ApiException as error:
                    # Broken connections, and gateways that fail, the SDK has tried again by itself.
                    if attempt == TRIES or error.status < 500:
                        raise
            time.sleep(SECONDS_BETWEEN_TRIES * attempt)
        raise AssertionError

    def send(self, method: str, path: str, query: Mapping[str, Any], body: Any = None, *, expected: int = 0) -> Any:
        """Send what changes something, once, and give the JSON of the answer; None where it is `expected` to refuse.

        Raises:
            StepError: the server refuses otherwise.
            TemporaryError: it cannot be reached, or fails.
        """
        from cvat_sdk.exceptions import ApiException

        with in_words(self, path):
            try:
                _, response = self.client.api_client.call_api(
                    path, method, query_params=list(query.items()), body=body, _request_timeout=_SECONDS
                )
            except ApiException as error:
                if error.status == expected:
                    return None
                raise
        return self._json(response)

    def reads_only(self) -> bool:
        """Whether we came with an access token that may change nothing, as they do unless made otherwise."""
        if not self._by_token:
            return False
        try:
            return bool(self.get("/api/auth/access_tokens/self").get("read_only"))
        except StepError:
            return False  # A server that does not say will refuse in its time.

    def _json(self, response: Any) -> Any:
        try:
            return json.loads(response.data) if response.data else None
        except ValueError:
            raise StepError(
                f"{self.host} answers with something that is not CVAT's API (is it behind a login page?): "
                "check the address"
            ) from None

    def local(self, url: str) -> tuple[str, dict[str, str]]:
        """Give path and query of an address that the server made: behind a proxy it may not know its own name."""
        from urllib.parse import parse_qsl

        parts = urlsplit(url)
        return parts.path, dict(parse_qsl(parts.query))

    def sdk_remedy(self) -> str:
        """Say how to install the SDK of this server's version."""
        return f"pip install 'cvat-sdk~={'.'.join(self.version.split('.')[:2])}.0'"


class in_words:  # noqa: N801 - used as a function
    """Turn what the SDK raises into one line that names the server and the remedy."""

    def __init__(self, server: Server, what: str = "such thing") -> None:
        self._server, self._what = server, what

    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if not isinstance(error, Exception) or isinstance(error, StepError | OSError):
            return
        from cvat_sdk.exceptions import ApiException, OpenApiException
        from urllib3.exceptions import HTTPError

        server = self._server
        if isinstance(error, HTTPError) or (isinstance(error, ApiException) and not error.status):
            raise _unreachable(server.host, error) from None
        if isinstance(error, ApiException):
            kind_of = TemporaryError if error.status >= 500 else StepError
            raise kind_of(_refusal(server, self._what, error)) from None
        # An answer that the generated models do not know, and what comes of half a model; not a defect of ours.
        if isinstance(error, OpenApiException | AttributeError | TypeError) and _raised_in_sdk(error):
            from cvat_sdk.version import VERSION

            raise StepError(
                f"cvat-sdk {VERSION} does not understand {server.host}, which is CVAT {server.version} "
                f"({_one_line(error)[:120]}): {server.sdk_remedy()}"
            ) from None
        if type(error).__module__.startswith("cvat_sdk."):
            raise StepError(f"{server.host}: {_one_line(error)}") from None


def _refusal(server: Server, what: str, error: Any) -> str:
    """What the server said, and what to do about it."""
    body = error.body.decode(errors="replace") if isinstance(error.body, bytes) else str(error.body or "")
    said = "" if body.lstrip().startswith("<") else printable(" ".join(body.split()))
    match error.status:
        case 401:
            return f"{server.host} does not know you (401): {_VARIABLES}"
        case 403:
            return (
                f"{server.host} does not allow it (403) {said}: ask for access; an access token may read only unless "
                "it was made otherwise"
            )
        case 404:
            return f"{server.host} has no {what}, or you may not see it (404): check the address"
        case 410:
            return f"{server.host}, CVAT {server.version}, has another API (410) {said}: {server.sdk_remedy()}"
        case status if status and status >= 500:
            return f"{server.host} fails ({status}) {said}: try again, or ask who runs it"
        case status:
            return f"{server.host} refuses ({status}): {said or _one_line(error)}"


def _unreachable(host: str, error: BaseException) -> StepError:
    """What stood between us and the server: the system's words rather than those of the libraries around them."""
    link: BaseException | None = error
    while link is not None:
        cause, reason = link, getattr(link, "reason", None)
        link = reason if isinstance(reason, BaseException) else link.__cause__ or link.__context__
    if isinstance(cause, ssl.SSLCertVerificationError):
        return StepError(
            f"{host} has a certificate that is not trusted here ({cause.verify_message}): set SSL_CERT_FILE"
        )
    if isinstance(cause, TimeoutError):
        return TemporaryError(f"{host} does not answer: check the address, or try again")
    why = (isinstance(cause, OSError) and cause.strerror) or _one_line(cause)
    return TemporaryError(f"{host} cannot be reached ({why}): check the address and the network")


def _raised_in_sdk(error: BaseException) -> bool:
    trace = error.__traceback__
    while trace and trace.tb_next:
        trace = trace.tb_next
    return trace is not None and str(trace.tb_frame.f_globals.get("__name__", "")).startswith("cvat_sdk.")


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:400] or type(error).__name__
