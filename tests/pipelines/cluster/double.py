"""A cluster on loopback that speaks as much of the Argo Server's and Kubernetes' interfaces as we call.

It accepts what their contracts accept and nothing else, plays a workflow's states one after the other, and drops
connections in the middle when it is told to.
"""

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from pipelines.manifest.pod_rules import pod_faults
from pipelines.manifest.pod_security import restricted_faults

NAMESPACE = "team"
TOKEN = "a-secret-token"
CREATED = "detr-training-abcde"


@dataclass
class Double:
    """What the cluster holds, what it was asked, and how it misbehaves."""

    states: list[dict[str, Any]] = field(default_factory=list)
    """The workflow's `status`, one for each moment; a watch moves from one to the next."""
    template: dict[str, Any] | None = None
    log: list[str] = field(default_factory=list)
    drops: int = 0
    """How many watches break after one message."""
    hold: bool = False
    """Whether a watch stays silent after its last state, as that of a running workflow does."""
    silent: bool = False
    """Whether each watch says nothing at all, not even that it ends."""
    pods: list[dict[str, Any]] | None = None
    """The pods that Kubernetes has; None for those of the steps that have a log."""
    warnings: list[dict[str, Any]] = field(default_factory=list)
    """Kubernetes' events of type Warning."""
    forbidden: tuple[str, ...] = ()
    """Parts of the paths of what these credentials may not do."""
    moves: bool = False
    """Whether the workflow moves on to its next state each time that it is looked at."""
    sweep: str = ""
    """The sweep that the workflow belongs to."""
    spaces: dict[str, dict[str, str]] = field(default_factory=dict)
    """Labels of the namespaces that were made here, beside `NAMESPACE`."""
    kept: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Cron workflows by name."""
    asked: list[tuple[str, str, dict[str, str], Any]] = field(default_factory=list)
    """Method, path, query and body of each request."""
    moment: int = 0
    address: str = ""
    released: threading.Event = field(default_factory=threading.Event)

    def workflow(self) -> dict[str, Any]:
        return {
            "apiVersion": "argoproj.io/v1alpha1",
            "kind": "Workflow",
            "metadata": {
                "name": CREATED,
                "namespace": NAMESPACE,
                "resourceVersion": str(self.moment + 1),
                "creationTimestamp": "2026-01-01T09:59:00Z",
                "labels": {"used-by": "cvat", **({"cvat-detr/sweep": self.sweep} if self.sweep else {})},
            },
            "spec": self.created()[-1]["spec"] if self.created() else {},
            "status": self.states[self.moment] if self.states else {},
        }

    def created(self) -> list[dict[str, Any]]:
        """The workflows that were sent."""
        bodies = [body for method, _, _, body in self.asked if method == "POST"]
        return [body.get("workflow", body) for body in bodies]


@contextmanager
def cluster_double(**what: Any) -> Iterator[Double]:
    double = Double(**what)

    class Handler(_Handler):
        cluster = double

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    double.address = f"127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield double
    finally:
        double.released.set()
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    cluster: Double
    space = ""
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments: Any) -> None: ...

    def do_GET(self) -> None:
        self._serve("GET")

    def do_POST(self) -> None:
        self._serve("POST")

    def do_PUT(self) -> None:
        self._serve("PUT")

    def do_DELETE(self) -> None:
        self._serve("DELETE")

    def do_PATCH(self) -> None:
        assert self.headers["Content-Type"] == "application/merge-patch+json"
        self._serve("PATCH")

    def _serve(self, method: str) -> None:
        url = urlsplit(self.path)
        query = {name: values[-1] for name, values in parse_qs(url.query, keep_blank_values=True).items()}
        length = int(self.headers.get("Content-Length") or 0)
        body = json.loads(self.rfile.read(length)) if length else None
        self.cluster.asked.append((method, url.path, query, body))
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self._answer(401, {"code": 16, "message": "token not valid"})
            return
        if any(part in url.path for part in self.cluster.forbidden):
            self._answer(403, {"code": 7, "message": "not allowed"})
            return
        for pattern, verb, act in ROUTES:
            if verb == method and (match := re.fullmatch(pattern, url.path)):
                names = match.groupdict()
                if names.get("namespace", NAMESPACE) not in (NAMESPACE, *self.cluster.spaces):
                    self._answer(404, {"code": 5, "message": f'namespaces "{names.get("namespace")}" not found'})
                else:
                    self.space = names.get("namespace", "")
                    act(self, query, body, **{key: value for key, value in names.items() if key != "namespace"})
                return
        self._answer(404, {"message": f"no such call: {method} {url.path}"})

    def _answer(self, status: int, document: Any) -> None:
        self._text(status, json.dumps(document), "application/json")

    def _text(self, status: int, text: str, kind: str) -> None:
        content = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _lines(self, documents: Iterator[Any]) -> None:
        """Stream one JSON document a line; the connection's end is the stream's, clean or not."""
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self.close_connection = True
        for document in documents:
            if document is DROP:
                self.connection.close()
                return
            line = (json.dumps(document) + "\n").encode()
            self.wfile.write(f"{len(line):x}\r\n".encode() + line + b"\r\n")
            self.wfile.flush()
        self.wfile.write(b"0\r\n\r\n")

    def _changes(self) -> Iterator[Any]:
        """Play what happens after now."""
        double = self.cluster
        if double.silent:
            double.moment = min(double.moment + 1, len(double.states) - 1)
            double.released.wait(60)
            return
        while double.moment + 1 < len(double.states):
            double.moment += 1
            yield double.workflow()
            if double.drops:
                double.drops -= 1
                yield DROP
        if double.hold:
            double.released.wait(60)

    def create_at_argo(self, query: dict[str, str], body: Any) -> None:
        if not isinstance(body, dict) or not body.keys() <= {
            "createOptions", "instanceID", "namespace", "serverDryRun", "workflow",
        }:  # fmt: skip
            self._answer(400, {"code": 3, "message": "unknown field in the request"})
            return
        self._create(body.get("workflow"), 200)

    def create_at_kubernetes(self, query: dict[str, str], body: Any) -> None:
        self._create(body, 201)

    def _create(self, workflow: Any, status: int) -> None:
        metadata = (workflow or {}).get("metadata", {})
        if not (metadata.get("name") or metadata.get("generateName")) or not workflow.get("spec"):
            self._answer(400, {"code": 3, "message": "a workflow needs a name and a spec"})
            return
        if metadata.get("namespace", NAMESPACE) != NAMESPACE:
            self._answer(400, {"code": 3, "message": "the namespace of the object does not match the request's"})
            return
        self._answer(status, {**workflow, "metadata": {**metadata, "name": metadata.get("name", CREATED)}})

    def create_namespace(self, query: dict[str, str], body: Any) -> None:
        self.cluster.spaces[body["metadata"]["name"]] = body["metadata"].get("labels", {})
        self._answer(201, body)

    def delete_namespace(self, query: dict[str, str], body: Any, name: str) -> None:
        del self.cluster.spaces[name]
        self._answer(200, {"kind": "Status", "apiVersion": "v1", "status": "Success"})

    def list_accounts(self, query: dict[str, str], body: Any) -> None:
        self._answer(200, {"items": [{"metadata": {"name": "default"}}]})

    def try_pod(self, query: dict[str, str], body: Any) -> None:
        assert query["dryRun"] == "All"
        faults = [f"{each}" for each in (*pod_faults(body), *restricted_faults(body))]
        enforced = self.cluster.spaces[self.space].get("pod-security.kubernetes.io/enforce")
        if enforced == "restricted" and faults:
            message = f'pods "x" is forbidden: violates PodSecurity "restricted:latest": {", ".join(faults)}'
            self._answer(403, {"kind": "Status", "code": 403, "reason": "Forbidden", "message": message})
        else:
            self._answer(201, body)

    def try_object(self, query: dict[str, str], body: Any) -> None:
        assert query["dryRun"] == "All"
        self._answer(201, body)

    def create_cron(self, query: dict[str, str], body: Any) -> None:
        if query.get("dryRun") != "All":
            self.cluster.kept[body["metadata"]["name"]] = body
        self._answer(201, body)

    def get_cron(self, query: dict[str, str], body: Any, name: str) -> None:
        found = self.cluster.kept.get(name)
        self._answer(200 if found else 404, found or {"code": 404, "message": f'"{name}" not found'})

    def delete_cron(self, query: dict[str, str], body: Any, name: str) -> None:
        self._answer(200, self.cluster.kept.pop(name))

    def get_workflow(self, query: dict[str, str], body: Any, name: str) -> None:
        double = self.cluster
        if name not in (CREATED, *(each["metadata"].get("name") for each in double.created())):
            self._answer(404, {"code": 5, "message": f'workflows.argoproj.io "{name}" not found'})
            return
        self._answer(200, double.workflow())
        if double.moves:
            double.moment = min(double.moment + 1, len(double.states) - 1)

    def get_template(self, query: dict[str, str], body: Any, name: str) -> None:
        if self.cluster.template is None or self.cluster.template["metadata"]["name"] != name:
            self._answer(404, {"code": 5, "message": f'workflowtemplates.argoproj.io "{name}" not found'})
            return
        self._answer(200, self.cluster.template)

    def stop_at_argo(self, query: dict[str, str], body: Any, name: str) -> None:
        assert body == {"name": name, "namespace": NAMESPACE}
        self.get_workflow(query, body, name)

    def stop_at_kubernetes(self, query: dict[str, str], body: Any, name: str) -> None:
        assert body["spec"]["shutdown"] in ("Stop", "Terminate")
        self.get_workflow(query, body, name)

    def find_at_argo(self, query: dict[str, str], body: Any) -> None:
        found = self._found(query["listOptions.labelSelector"])
        # Go writes an empty list so.
        self._answer(200, {"metadata": {}, "items": found or None})

    def _found(self, selector: str) -> list[dict[str, Any]]:
        wanted = dict(each.split("=") for each in selector.split(",") if "=" in each)
        workflow = self.cluster.workflow()
        return [workflow] if wanted.items() <= workflow["metadata"]["labels"].items() else []

    def events_at_argo(self, query: dict[str, str], body: Any) -> None:
        # A watch, which begins with what is there and is told by Kubernetes when to end.
        assert query == {"listOptions.fieldSelector": "type=Warning", "listOptions.timeoutSeconds": "1"}
        end = {"error": {"grpc_code": 8, "http_code": 429, "message": "EOF", "http_status": "Too Many Requests"}}
        self._lines(iter([*({"result": each} for each in self.cluster.warnings), end]))

    def events_at_kubernetes(self, query: dict[str, str], body: Any) -> None:
        assert query["fieldSelector"] == "type=Warning"
        self._answer(200, {"kind": "EventList", "apiVersion": "v1", "items": self.cluster.warnings})

    def watch_at_argo(self, query: dict[str, str], body: Any) -> None:
        assert query["listOptions.fieldSelector"] == f"metadata.name={CREATED}"
        assert int(query["listOptions.timeoutSeconds"]) > 0
        events = (
            {"result": {"type": "MODIFIED", "object": each}} if each is not DROP else DROP for each in self._changes()
        )
        self._lines(events)

    def list_at_kubernetes(self, query: dict[str, str], body: Any) -> None:
        if "watch" not in query:
            assert query["labelSelector"].endswith("workflows.argoproj.io/controller-instanceid")
            self._answer(200, {"items": self._found(query["labelSelector"])})
            return
        assert query["watch"].lower() == "true"
        assert query["fieldSelector"] == f"metadata.name={CREATED}"
        self._lines({"type": "MODIFIED", "object": each} if each is not DROP else DROP for each in self._changes())

    def log_at_argo(self, query: dict[str, str], body: Any, name: str) -> None:
        other = {"result": {"content": "of another pod", "podName": f"{name}-fetch-dump-1"}}
        mine = [{"result": {"content": line, "podName": f"{name}-train-detr-77"}} for line in self.cluster.log]
        self._lines(iter([other, *mine]))

    def list_pods(self, query: dict[str, str], body: Any) -> None:
        assert query["labelSelector"] == f"workflows.argoproj.io/workflow={CREATED}"
        pods = [
            {
                "metadata": {
                    "name": f"{CREATED}-{step}-{number}",
                    "annotations": {"workflows.argoproj.io/node-id": f"{CREATED}-{number}"},
                }
            }
            for step, number in (("fetch-dump", 1), ("train-detr", 77))
        ]
        pods = pods if self.cluster.pods is None else self.cluster.pods
        self._answer(200, {"kind": "PodList", "apiVersion": "v1", "items": pods})

    def log_at_kubernetes(self, query: dict[str, str], body: Any, pod: str) -> None:
        assert query["container"] == "main"
        lines = self.cluster.log if pod.endswith("-77") else ["of another pod"]
        if lines:
            self._text(200, "".join(f"{line}\n" for line in lines), "text/plain")
        else:  # As a real server answers for a container that has not started.
            self.send_response(204)
            self.end_headers()


DROP = object()
ARGO = "/api/v1"
KUBERNETES = "/apis/argoproj.io/v1alpha1/namespaces/(?P<namespace>[^/]+)"
ROUTES = [
    (f"{ARGO}/workflows/(?P<namespace>[^/]+)", "POST", _Handler.create_at_argo),
    (f"{ARGO}/workflows/(?P<namespace>[^/]+)/(?P<name>[^/]+)", "GET", _Handler.get_workflow),
    (f"{ARGO}/workflows/(?P<namespace>[^/]+)/(?P<name>[^/]+)/log", "GET", _Handler.log_at_argo),
    (f"{ARGO}/workflow-templates/(?P<namespace>[^/]+)/(?P<name>[^/]+)", "GET", _Handler.get_template),
    (f"{ARGO}/workflow-events/(?P<namespace>[^/]+)", "GET", _Handler.watch_at_argo),
    (f"{ARGO}/workflows/(?P<namespace>[^/]+)", "GET", _Handler.find_at_argo),
    (f"{ARGO}/workflows/(?P<namespace>[^/]+)/(?P<name>[^/]+)/(stop|terminate|retry)", "PUT", _Handler.stop_at_argo),
    (f"{ARGO}/stream/events/(?P<namespace>[^/]+)", "GET", _Handler.events_at_argo),
    (f"{KUBERNETES}/workflows", "POST", _Handler.create_at_kubernetes),
    (f"{KUBERNETES}/workflows", "GET", _Handler.list_at_kubernetes),
    (f"{KUBERNETES}/workflows/(?P<name>[^/]+)", "GET", _Handler.get_workflow),
    (f"{KUBERNETES}/workflows/(?P<name>[^/]+)", "PATCH", _Handler.stop_at_kubernetes),
    ("/api/v1/namespaces/(?P<namespace>[^/]+)/events", "GET", _Handler.events_at_kubernetes),
    (f"{KUBERNETES}/workflowtemplates/(?P<name>[^/]+)", "GET", _Handler.get_template),
    ("/api/v1/namespaces", "POST", _Handler.create_namespace),
    ("/api/v1/namespaces/(?P<name>[^/]+)", "DELETE", _Handler.delete_namespace),
    ("/api/v1/namespaces/(?P<namespace>[^/]+)/serviceaccounts", "GET", _Handler.list_accounts),
    ("/api/v1/namespaces/(?P<namespace>[^/]+)/pods", "POST", _Handler.try_pod),
    (f"{KUBERNETES}/workflowtemplates", "POST", _Handler.try_object),
    (f"{KUBERNETES}/cronworkflows", "POST", _Handler.create_cron),
    (f"{KUBERNETES}/cronworkflows/(?P<name>[^/]+)", "GET", _Handler.get_cron),
    (f"{KUBERNETES}/cronworkflows/(?P<name>[^/]+)", "DELETE", _Handler.delete_cron),
    ("/apis/rbac.authorization.k8s.io/v1/namespaces/(?P<namespace>[^/]+)/role(binding)?s", "POST", _Handler.try_object),
    ("/api/v1/namespaces/(?P<namespace>[^/]+)/pods", "GET", _Handler.list_pods),
    ("/api/v1/namespaces/(?P<namespace>[^/]+)/pods/(?P<pod>[^/]+)/log", "GET", _Handler.log_at_kubernetes),
]
