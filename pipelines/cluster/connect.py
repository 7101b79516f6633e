"""The two ways to a cluster: the Argo Server, and the Kubernetes API."""

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import requests
import urllib3
from hera.exceptions import HeraException
from hera.workflows import WorkflowsService
from hera.workflows.models import Workflow, WorkflowCreateRequest
from kubernetes import client as k8s
from kubernetes import config as k8s_config
from kubernetes import watch as k8s_watch
from kubernetes.client.exceptions import ApiException
from kubernetes.config.config_exception import ConfigException

from pipelines.errors import PipelineError

Document = dict[str, Any]
GROUP, VERSION = "argoproj.io", "v1alpha1"
SECONDS_TO_CONNECT = 10
SECONDS_TO_ANSWER = 60
LOG_LINES = 20
# A plain word for each code that a user can do something about.
REFUSALS = {
    401: "does not accept the token or certificate",
    403: "does not allow these credentials to do that",
}


class ConnectionLostError(Exception):
    """The cluster went away in the middle of something that can be taken up again."""


class Cluster(Protocol):
    """What submitting and watching need of a cluster."""

    namespace: str

    def create(self, workflow: Document) -> str:
        """Create a workflow; give its name."""
        ...

    def get(self, name: str) -> Document:
        """Give a workflow as it stands."""
        ...

    def template(self, name: str) -> Document:
        """Give a workflow template."""
        ...

    def events(self, name: str, version: str) -> Iterator[Document]:
        """Give the workflow anew each time that it changes after `version`, until the connection ends."""
        ...

    def log(self, name: str, node: Document) -> list[str]:
        """Give the last lines of a node's main container."""
        ...


def connect(via: str, *, context: str = "", namespace: str = "", environ: Mapping[str, str] = os.environ) -> Cluster:
    """Reach the cluster that the environment configures.

    Args:
        via: `argo` (the server of `ARGO_SERVER`), `kubernetes` (kubeconfig, or the pod that we run in), or
            `auto`: the first of the two that is configured.
        context: of the kubeconfig. Empty: its current one.
        namespace: where workflows go. Empty: `ARGO_NAMESPACE`, else the context's, else `default`.
        environ: the environment.

    Raises:
        PipelineError: neither is configured, or the configuration cannot be read.
    """
    namespace = namespace or environ.get("ARGO_NAMESPACE", "")
    if via == "argo" or (via == "auto" and environ.get("ARGO_SERVER")):
        return ArgoServer(environ, namespace or "default")
    if via not in ("auto", "kubernetes"):
        raise PipelineError(f"--via is '{via}': it can be auto, argo or kubernetes")
    return Kubernetes(context, namespace, environ)


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
        with _in_words(f"the Argo Server at {self.address}", f"namespace '{self.namespace}'"):
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
        with _in_words(f"the Argo Server at {self.address}", f"{what} in namespace '{self.namespace}'"):
            answer = self._ask(path, {})
            document: Document = answer.json()
        return document

    def _stream(self, path: str, query: Mapping[str, str]) -> Iterator[Any]:
        """Give the results of a stream of JSON lines."""
        with (
            _in_words(f"the Argo Server at {self.address}", f"namespace '{self.namespace}'"),
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


class Kubernetes:
    """A cluster through its own API, configured as kubectl is, or by the pod that we run in."""

    def __init__(self, context: str, namespace: str, environ: Mapping[str, str]) -> None:
        configuration = k8s.Configuration()
        files = environ.get("KUBECONFIG") or str(Path.home() / ".kube" / "config")
        try:
            if any(Path(file).is_file() for file in files.split(os.pathsep)):
                k8s_config.load_kube_config(files, context=context or None, client_configuration=configuration)
                _, active = k8s_config.list_kube_config_contexts(files)
                if context:
                    active = next(
                        each for each in k8s_config.list_kube_config_contexts(files)[0] if each["name"] == context
                    )
                self.namespace = namespace or active["context"].get("namespace") or "default"
            elif environ.get("KUBECONFIG"):
                raise PipelineError(f"KUBECONFIG names {files}, which is not there: give an existing file")
            else:
                k8s_config.load_incluster_config(client_configuration=configuration)
                own = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
                self.namespace = namespace or (own.read_text().strip() if own.is_file() else "default")
        except ConfigException as error:
            if "Service host/port is not set" in str(error):
                raise PipelineError(
                    "no cluster is configured: set ARGO_SERVER (and ARGO_TOKEN) for the Argo Server, or KUBECONFIG"
                ) from None
            raise PipelineError(f"{files}: {' '.join(str(error).split())}") from None
        configuration.retries = False
        api = k8s.ApiClient(configuration)
        self.address = configuration.host
        self._custom = k8s.CustomObjectsApi(api)
        self._core = k8s.CoreV1Api(api)

    def create(self, workflow: Document) -> str:
        with self._in_words(f"namespace '{self.namespace}'"):
            created: Any = self._custom.create_namespaced_custom_object(
                GROUP, VERSION, self.namespace, "workflows", workflow, _request_timeout=_TIMEOUT
            )
        return str(created["metadata"]["name"])

    def get(self, name: str) -> Document:
        return self._get("workflows", name, f"workflow '{name}'")

    def template(self, name: str) -> Document:
        return self._get("workflowtemplates", name, f"workflow template '{name}'")

    def events(self, name: str, version: str) -> Iterator[Document]:
        stream = k8s_watch.Watch().stream(
            self._custom.list_namespaced_custom_object,
            GROUP,
            VERSION,
            self.namespace,
            "workflows",
            field_selector=f"metadata.name={name}",
            resource_version=version,
            timeout_seconds=300,
            _request_timeout=(SECONDS_TO_CONNECT, 310),
        )
        with self._in_words(f"namespace '{self.namespace}'"):
            for event in stream:
                yield event["object"]

    def log(self, name: str, node: Document) -> list[str]:
        with self._in_words(f"the log of '{node['displayName']}'"):
            pods: Any = self._core.list_namespaced_pod(
                self.namespace, label_selector=f"workflows.argoproj.io/workflow={name}", _request_timeout=_TIMEOUT
            ).items
            for pod in pods:
                if (pod.metadata.annotations or {}).get("workflows.argoproj.io/node-id") == node["id"]:
                    text = self._core.read_namespaced_pod_log(
                        pod.metadata.name,
                        self.namespace,
                        container="main",
                        tail_lines=LOG_LINES,
                        _request_timeout=_TIMEOUT,
                    )
                    return str(text).splitlines()
        return []

    def _get(self, plural: str, name: str, what: str) -> Document:
        with self._in_words(f"{what} in namespace '{self.namespace}'"):
            found: Any = self._custom.get_namespaced_custom_object(
                GROUP, VERSION, self.namespace, plural, name, _request_timeout=_TIMEOUT
            )
        return dict(found)

    def _in_words(self, what: str) -> "_in_words":
        return _in_words(f"the Kubernetes API at {self.address}", what)


_TIMEOUT = (SECONDS_TO_CONNECT, SECONDS_TO_ANSWER)


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


class _in_words:  # noqa: N801 - used as a function
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
    """Give the message in an error's body, which is JSON more often than not."""
    try:
        document = json.loads(body)
    except json.JSONDecodeError:
        return " ".join(body.split())[:200] or "no reason given"
    return str(document.get("message", document) if isinstance(document, dict) else document)[:400]


def _true(text: str) -> bool:
    return text.strip().lower() in ("1", "t", "true", "yes")
