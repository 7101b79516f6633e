"""What submitting and watching need of a cluster, however it is reached."""

from collections.abc import Iterator
from typing import Any, Protocol

Document = dict[str, Any]
GROUP, VERSION = "argoproj.io", "v1alpha1"
SECONDS_TO_CONNECT = 10
SECONDS_TO_ANSWER = 60
LOG_LINES = 20


class Cluster(Protocol):
    """What submitting and watching need of a cluster."""

    namespace: str

    def create(self, workflow: Document) -> str:
        """Create a workflow; return its name."""
        ...

    def get(self, name: str) -> Document:
        """Return a workflow as it stands."""
        ...

    def template(self, name: str) -> Document:
        """Return a workflow template."""
        ...

    def events(self, name: str, version: str) -> Iterator[Document]:
        """Return the workflow anew each time that it changes after `version`, until the connection ends."""
        ...

    def log(self, name: str, node: Document) -> list[str]:
        """Return the last lines of a node's main container."""
        ...
