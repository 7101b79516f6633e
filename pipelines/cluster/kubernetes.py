"""A cluster through the Kubernetes API."""

import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from kubernetes import client as k8s
from kubernetes import config as k8s_config
from kubernetes import watch as k8s_watch
from kubernetes.config.config_exception import ConfigException
from kubernetes.config.kube_config import KubeConfigLoader, KubeConfigMerger

from pipelines.cluster.errors import in_words
from pipelines.cluster.protocol import (
    GRACE_SECONDS,
    GROUP,
    INSTANCE_LABEL,
    SECONDS_TO_ANSWER,
    SECONDS_TO_CONNECT,
    VERSION,
    WATCH_SECONDS,
    Document,
)
from pipelines.errors import PipelineError

_TIMEOUT = (SECONDS_TO_CONNECT, SECONDS_TO_ANSWER)


class Kubernetes:
    """A cluster through its own API, configured as kubectl is, or by the pod that we run in."""

    def __init__(self, context: str, namespace: str, environ: Mapping[str, str]) -> None:
        configuration = k8s.Configuration()
        files = environ.get("KUBECONFIG") or str(Path.home() / ".kube" / "config")
        try:
            if any(Path(file).is_file() for file in files.split(os.pathsep)):
                loader = KubeConfigLoader(
                    KubeConfigMerger(files).config, active_context=context or None, config_base_path=None
                )
                loader.load_and_set(configuration)
                self.namespace = namespace or loader.current_context["context"].get("namespace") or "default"
            elif environ.get("KUBECONFIG"):
                raise PipelineError(f"KUBECONFIG is {files}, which does not exist: set it to an existing file")
            else:
                k8s_config.load_incluster_config(client_configuration=configuration)
                own = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
                self.namespace = namespace or (own.read_text().strip() if own.is_file() else "default")
        except ConfigException as error:
            if "Service host/port is not set" in str(error):
                raise PipelineError(
                    "no cluster is configured: set ARGO_SERVER (and ARGO_TOKEN) for the Argo Server, or KUBECONFIG"
                ) from None
            hint = "" if context else ": name a context of it with --context"
            raise PipelineError(f"{files}: {' '.join(str(error).split())}{hint}") from None
        self.instance_id = environ.get("ARGO_INSTANCEID", "")
        self._context = context
        configuration.retries = False
        self._api = api = k8s.ApiClient(configuration)
        self.address = configuration.host
        self._custom = k8s.CustomObjectsApi(api)
        self._core = k8s.CoreV1Api(api)

    def create(self, workflow: Document) -> Document:
        with self._in_words(f"namespace '{self.namespace}'"):
            created: Any = self._custom.create_namespaced_custom_object(
                GROUP, VERSION, self.namespace, "workflows", workflow, _request_timeout=_TIMEOUT
            )
        return dict(created)

    def get(self, name: str) -> Document:
        return self._get("workflows", name, f"workflow '{name}'")

    def find(self, selector: str) -> list[Document]:
        own = f"{INSTANCE_LABEL}={self.instance_id}" if self.instance_id else f"!{INSTANCE_LABEL}"
        with self._in_words(f"namespace '{self.namespace}'"):
            found: Any = self._custom.list_namespaced_custom_object(
                GROUP,
                VERSION,
                self.namespace,
                "workflows",
                label_selector=f"{selector},{own}",
                _request_timeout=_TIMEOUT,
            )
        return list(found["items"])

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
            timeout_seconds=WATCH_SECONDS,
            _request_timeout=(SECONDS_TO_CONNECT, WATCH_SECONDS + GRACE_SECONDS),
        )
        with self._in_words(f"namespace '{self.namespace}'"):
            for event in stream:
                yield event["object"]

    def pod(self, name: str, node: Document) -> Document:
        with self._in_words(f"pod of '{node['displayName']}'"):
            pods: Any = self._core.list_namespaced_pod(
                self.namespace, label_selector=f"workflows.argoproj.io/workflow={name}", _request_timeout=_TIMEOUT
            ).items
        for pod in pods:
            if (pod.metadata.annotations or {}).get("workflows.argoproj.io/node-id") == node["id"]:
                return self._document(pod)
        return {}

    def warnings(self) -> list[Document]:
        with self._in_words(f"namespace '{self.namespace}'"):
            found: Any = self._core.list_namespaced_event(
                self.namespace, field_selector="type=Warning", _request_timeout=_TIMEOUT
            )
        return [self._document(event) for event in found.items]

    def log(self, name: str, node: Document, lines: int | None) -> list[str]:
        pod = self.pod(name, node)
        if not pod:
            return []
        more: dict[str, Any] = {"tail_lines": lines} if lines else {}
        with self._in_words(f"the log of '{node['displayName']}'"):
            text = self._core.read_namespaced_pod_log(
                pod["metadata"]["name"], self.namespace, container="main", _request_timeout=_TIMEOUT, **more
            )
        # The client makes None of an empty answer: a container that has not started has none.
        return str(text or "").splitlines()

    def stop(self, name: str, *, waits: bool) -> None:
        # As the argo command does.
        with self._in_words(f"workflow '{name}' in namespace '{self.namespace}'"):
            self._custom.patch_namespaced_custom_object(
                GROUP,
                VERSION,
                self.namespace,
                "workflows",
                name,
                {"spec": {"shutdown": "Terminate" if waits else "Stop"}},
                _request_timeout=_TIMEOUT,
                _content_type="application/merge-patch+json",
            )

    def retry(self, name: str) -> None:
        # Which nodes and pods to reset is Argo's own business, in its server and its command, and changes with it.
        command = ["argo", "retry", name, "--namespace", self.namespace]
        command += ["--context", self._context] if self._context else []
        if shutil.which("argo") is None:
            raise PipelineError(
                f"retrying takes the Argo Server (set ARGO_SERVER) or the argo command: `{' '.join(command)}`"
            )
        # ARGO_SERVER would have the command ask that.
        environment = {key: value for key, value in os.environ.items() if key != "ARGO_SERVER"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        if done.returncode:
            raise PipelineError(f"`{' '.join(command)}` failed: {' '.join(done.stderr.split())}")

    def _document(self, model: Any) -> Document:
        return dict(self._api.sanitize_for_serialization(model))

    def _get(self, plural: str, name: str, what: str) -> Document:
        with self._in_words(f"{what} in namespace '{self.namespace}'"):
            found: Any = self._custom.get_namespaced_custom_object(
                GROUP, VERSION, self.namespace, plural, name, _request_timeout=_TIMEOUT
            )
        return dict(found)

    def _in_words(self, what: str) -> in_words:
        return in_words(f"the Kubernetes API at {self.address}", what)
