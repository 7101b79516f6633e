"""A cluster through the Kubernetes API."""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from kubernetes import client as k8s
from kubernetes import config as k8s_config
from kubernetes import watch as k8s_watch
from kubernetes.config.config_exception import ConfigException

from pipelines.cluster.errors import in_words
from pipelines.cluster.protocol import GROUP, LOG_LINES, SECONDS_TO_ANSWER, SECONDS_TO_CONNECT, VERSION, Document
from pipelines.errors import PipelineError

_TIMEOUT = (SECONDS_TO_CONNECT, SECONDS_TO_ANSWER)


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

    def _in_words(self, what: str) -> in_words:
        return in_words(f"the Kubernetes API at {self.address}", what)
