"""What goes wrong between here and a cluster, in one line each."""

import json

import requests
import urllib3
from hera.exceptions import HeraException
from kubernetes.client.exceptions import ApiException

from pipelines.errors import PipelineError

REFUSALS = {
    401: "does not accept the token or certificate",
    403: "does not allow these credentials to do that",
}
"""In plain words, the statuses that a user can do something about."""


class ConnectionLostError(Exception):
    """The cluster was lost; what was asked can be tried again."""


class in_words:  # noqa: N801 - used as a function
    """Turn what the clients raise into one line, or into `ConnectionLostError` where trying again can help."""

    def __init__(self, server: str, what: str) -> None:
        self._server = server
        self._what = what

    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, requests.HTTPError):
            self._refuse(error.response.status_code, _message(error.response.text))
        if isinstance(error, HeraException):
            self._refuse(getattr(error, "status_code", 0), str(error))
        if isinstance(error, ApiException) and error.status:
            self._refuse(error.status, _message(str(error.body or error.reason)))
        if isinstance(error, requests.exceptions.SSLError):
            raise PipelineError(
                f"{self._server} has no certificate that this machine trusts: for a server of your own, set "
                "ARGO_INSECURE_SKIP_VERIFY=true, or ARGO_SECURE=false where it speaks plain HTTP"
            ) from None
        if isinstance(
            error, requests.RequestException | urllib3.exceptions.HTTPError | json.JSONDecodeError | ApiException
        ):
            raise ConnectionLostError(f"{self._server} does not answer ({type(error).__name__})") from None

    def _refuse(self, status: int, message: str) -> None:
        if status in REFUSALS:
            raise PipelineError(f"{self._server} {REFUSALS[status]} ({status}): {message}") from None
        if status == 404:
            raise PipelineError(f"{self._server} has no {self._what}: {message}") from None
        if status == 410 or status >= 500:
            raise ConnectionLostError(f"{self._server} failed ({status}): {message}") from None
        raise PipelineError(f"{self._server} refuses that ({status}): {message}") from None


def _message(body: str) -> str:
    """Return the message in an error's body, which is JSON more often than not."""
    try:
        document = json.loads(body)
    except json.JSONDecodeError:
        return " ".join(body.split())[:200] or "no reason given"
    return str(document.get("message", document) if isinstance(document, dict) else document)[:400]
