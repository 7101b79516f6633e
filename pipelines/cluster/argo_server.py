"""A cluster through the Argo Server."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

import requests
import urllib3
from hera.workflows import WorkflowsService
from hera.workflows.models import Workflow, WorkflowCreateRequest

from pipelines.cluster.errors import ConnectionLostError, in_words
from pipelines.cluster.protocol import LOG_LINES, SECONDS_TO_ANSWER, SECONDS_TO_CONNECT, Document
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

    def create(self, workflow: Document) -> str:
        request = WorkflowCreateRequest(workflow=Workflow.model_validate(workflow))
        with in_words(f"the Argo Server at {self.address}", f"namespace '{self.namespace}'"):
            created = self._service.create_workflow(request, namespace=self.namespace)
        return str(created.metadata.name)

    def get(self, name: str) -> Document:
        return self._get(f"workflows/{self.namespace}/{name}", f"workflow '{name}'")

    def template(self, name: str) -> Document:
        return self._get(f"workflow-templates/{self.namespace}/{name}", f"workflow template '{name}'")

    def events(self, name: str, version: str) -> Iterator[Document]:
        query = {
            "listOptions.fieldSelector": f"metadata.name={name}",
            "listOptions.resourceVersion": version,
        }
        for message in self._stream(f"workflow-events/{self.namespace}", query):
            yield message["object"]

    def log(self, name: str, node: Document) -> list[str]:
        query = {"logOptions.container": "main", "logOptions.tailLines": str(LOG_LINES)}
        # A pod's name ends as its node's id does; what lies between them depends on Argo's version.
        suffix = node["id"].rpartition("-")[2]
        lines = [
            str(entry.get("content", ""))
            for entry in self._stream(f"workflows/{self.namespace}/{name}/log", query)
            if str(entry.get("podName", "")).rpartition("-")[2] == suffix
        ]
        return lines[-LOG_LINES:]

    def _get(self, path: str, what: str) -> Document:
        with in_words(f"the Argo Server at {self.address}", f"{what} in namespace '{self.namespace}'"):
            answer = self._ask(path, {})
            document: Document = answer.json()
        return document

    def _stream(self, path: str, query: Mapping[str, str]) -> Iterator[Any]:
        """Return the results of a stream of JSON lines."""
        with (
            in_words(f"the Argo Server at {self.address}", f"namespace '{self.namespace}'"),
            self._ask(path, query, stream=True) as answer,
        ):
            for line in filter(None, answer.iter_lines()):
                message = json.loads(line)
                if "result" not in message:
                    raise ConnectionLostError(str(message.get("error", message)))
                yield message["result"]

    def _ask(self, path: str, query: Mapping[str, str], *, stream: bool = False) -> requests.Response:
        answer = self._service.session.get(
            f"{self._service.host}api/v1/{path}",
            params=query,
            headers={"Authorization": self._service.token},
            verify=self._service.verify_ssl,
            stream=stream,
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
        # A stream may be silent for as long as a training step takes.
        patience = None if kwargs.get("stream") else SECONDS_TO_ANSWER
        kwargs.setdefault("timeout", (SECONDS_TO_CONNECT, patience))
        return super().request(*args, **kwargs)


def _true(text: str) -> bool:
    return text.strip().lower() in ("1", "t", "true", "yes")
