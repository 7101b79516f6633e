"""A cluster through the Argo Server."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

import requests
import urllib3
from hera.workflows import WorkflowsService

from pipelines.cluster.errors import ConnectionLostError, in_words
from pipelines.cluster.nodes import is_pod_of
from pipelines.cluster.protocol import (
    GRACE_SECONDS,
    SECONDS_TO_ANSWER,
    SECONDS_TO_CONNECT,
    WATCH_SECONDS,
    Document,
)
from pipelines.errors import PipelineError


class ArgoServer:
    """A cluster through the Argo Server, configured by the variables that the argo CLI reads."""

    def __init__(self, environ: Mapping[str, str], namespace: str) -> None:
        server = environ.get("ARGO_SERVER", "")
        if not server:
            raise PipelineError("ARGO_SERVER is not set: give the Argo Server's host:port")
        if "://" not in server:
            server = f"{'https' if _true(environ.get('ARGO_SECURE', 'true')) else 'http'}://{server}"
        verify = not _true(environ.get("ARGO_INSECURE_SKIP_VERIFY", "false"))
        if not verify:
            urllib3.disable_warnings(urllib3.exceptions.InsecureRequestWarning)
        self.namespace = namespace
        self.instance_id = environ.get("ARGO_INSTANCEID", "")
        self.address = server.rstrip("/")
        base = environ.get("ARGO_BASE_HREF", "").strip("/")
        host = f"{self.address}/{base}/" if base else f"{self.address}/"
        self._service = WorkflowsService(
            host=host,
            verify_ssl=verify,
            token=environ.get("ARGO_TOKEN") or None,
            namespace=namespace,
            session=_Session(),
        )

    def create(self, workflow: Document) -> Document:
        return self._call("POST", f"workflows/{self.namespace}", self._here, json={"workflow": workflow})

    def get(self, name: str) -> Document:
        return self._call("GET", f"workflows/{self.namespace}/{name}", self._workflow(name))

    def find(self, selector: str) -> list[Document]:
        query = {"listOptions.labelSelector": selector}
        return self._call("GET", f"workflows/{self.namespace}", self._here, params=query).get("items") or []

    def template(self, name: str) -> Document:
        what = f"workflow template '{name}' in {self._here}"
        return self._call("GET", f"workflow-templates/{self.namespace}/{name}", what)

    def events(self, name: str, version: str) -> Iterator[Document]:
        query = {
            "listOptions.fieldSelector": f"metadata.name={name}",
            "listOptions.resourceVersion": version,
            "listOptions.timeoutSeconds": str(WATCH_SECONDS),
        }
        for message in self._stream(f"workflow-events/{self.namespace}", query, WATCH_SECONDS + GRACE_SECONDS):
            yield message["object"]

    def pod(self, name: str, node: Document) -> Document:
        return {}

    def warnings(self) -> list[Document]:
        # There is no list of events here, only a watch, which begins with those that are there.
        query = {"listOptions.fieldSelector": "type=Warning", "listOptions.timeoutSeconds": "1"}
        return list(self._stream(f"stream/events/{self.namespace}", query, SECONDS_TO_ANSWER))

    def log(self, name: str, node: Document, lines: int | None) -> list[str]:
        query = {"logOptions.container": "main", **({"logOptions.tailLines": str(lines)} if lines else {})}
        entries = self._stream(f"workflows/{self.namespace}/{name}/log", query, SECONDS_TO_ANSWER)
        return [str(entry.get("content", "")) for entry in entries if is_pod_of(str(entry.get("podName", "")), node)]

    def stop(self, name: str, *, waits: bool) -> None:
        self._change(name, "terminate" if waits else "stop")

    def retry(self, name: str) -> None:
        self._change(name, "retry")

    def _change(self, name: str, verb: str) -> None:
        body = {"name": name, "namespace": self.namespace}
        self._call("PUT", f"workflows/{self.namespace}/{name}/{verb}", self._workflow(name), json=body)

    @property
    def _here(self) -> str:
        return f"namespace '{self.namespace}'"

    def _workflow(self, name: str) -> str:
        return f"workflow '{name}' in {self._here}"

    def _call(self, method: str, path: str, what: str, **content: Any) -> Document:
        with in_words(f"the Argo Server at {self.address}", what):
            document: Document = self._ask(method, path, **content).json()
        return document

    def _stream(self, path: str, query: Mapping[str, str], patience: float) -> Iterator[Any]:
        """Return the results of a stream of JSON lines; one that is silent for longer than `patience` is lost."""
        timeout = (SECONDS_TO_CONNECT, patience)
        with (
            in_words(f"the Argo Server at {self.address}", self._here),
            self._ask("GET", path, params=query, stream=True, timeout=timeout) as answer,
        ):
            for line in filter(None, answer.iter_lines()):
                message = json.loads(line)
                if "result" in message:
                    yield message["result"]
                    continue
                error = message.get("error", message)
                # How it passes on that Kubernetes ended a watch in time.
                if isinstance(error, dict) and error.get("message") == "EOF":
                    return
                raise ConnectionLostError(f"the Argo Server at {self.address} ended the connection: {error}")

    def _ask(self, method: str, path: str, **content: Any) -> requests.Response:
        answer = self._service.session.request(
            method,
            f"{self._service.host}api/v1/{path}",
            headers={"Authorization": self._service.token},
            verify=self._service.verify_ssl,
            **content,
        )
        answer.raise_for_status()
        return answer


class _Session(requests.Session):
    """A session that does not wait for ever, and that leaves ~/.netrc and its passwords alone."""

    def __init__(self) -> None:
        super().__init__()
        self.trust_env = True
        self.auth = lambda request: request

    def request(self, *args: Any, **kwargs: Any) -> requests.Response:
        kwargs.setdefault("timeout", (SECONDS_TO_CONNECT, SECONDS_TO_ANSWER))
        return super().request(*args, **kwargs)


def _true(text: str) -> bool:
    return text.strip().lower() in ("1", "t", "true", "yes")
