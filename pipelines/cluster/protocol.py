"""What submitting and watching need of a cluster, however it is reached."""

from collections.abc import Iterator
from typing import Any, Protocol

Document = dict[str, Any]
GROUP, VERSION = "argoproj.io", "v1alpha1"
INSTANCE_LABEL = "workflows.argoproj.io/controller-instanceid"
"""A controller with an instance id takes up only the workflows that carry it here; the variable is ARGO_INSTANCEID."""
SECONDS_TO_CONNECT = 10
SECONDS_TO_ANSWER = 60
WATCH_SECONDS = 30
"""After how long the server is asked to end a watch. Short, since the Argo Server sends nothing while nothing happens:
only so is a connection that died silently told from a training that is busy, and events are looked at now and then."""
GRACE_SECONDS = 15
"""How much later than asked a watch may end before its connection counts as lost."""
LOG_LINES = 20


class Cluster(Protocol):
    """What submitting and watching need of a cluster."""

    namespace: str
    instance_id: str
    """Of the controller that shall take workflows up; empty: the one without."""

    def create(self, workflow: Document) -> Document:
        """Create a workflow; return it as the cluster made it."""
        ...

    def get(self, name: str) -> Document:
        """Return a workflow as it stands."""
        ...

    def find(self, selector: str) -> list[Document]:
        """Return the workflows whose labels a selector asks for."""
        ...

    def template(self, name: str) -> Document:
        """Return a workflow template."""
        ...

    def events(self, name: str, version: str) -> Iterator[Document]:
        """Return the workflow anew each time that it changes after `version`, for at most `WATCH_SECONDS`."""
        ...

    def pod(self, name: str, node: Document) -> Document:
        """Return a node's pod; nothing where there is none, or where pods cannot be seen this way."""
        ...

    def warnings(self) -> list[Document]:
        """Return Kubernetes' events of type Warning in the namespace."""
        ...

    def log(self, name: str, node: Document, lines: int | None) -> list[str]:
        """Return the last lines of a node's main container, or all."""
        ...

    def stop(self, name: str, *, waits: bool) -> None:
        """Stop a workflow: its pods get SIGTERM, and nothing more is started; one that waits for a lock ends at once.

        To the second kind Argo's Stop does nothing before they have their lock, hence its Terminate.
        """
        ...

    def retry(self, name: str) -> None:
        """Run the failed steps of a finished workflow again, on the volumes that it left."""
        ...
