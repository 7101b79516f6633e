"""Addresses of tasks, projects and jobs, as a browser shows them: `https://cvat.example.com/tasks/42`."""

import re
from dataclasses import dataclass

from steps.common.errors import StepError

EXAMPLE = "https://cvat.example.com/tasks/42"

STATES = ("any", "completed", "accepted")
"""Which jobs are taken: all, those that are completed, those that passed acceptance as well."""

SERVER_EXAMPLE = "https://cvat.example.com or https://cvat.example.com/projects/7"

_SERVER = re.compile(r"https?://[^/?#@\s]+/?", re.IGNORECASE)
_PLACE = re.compile(
    r"(?P<host>https?://[^/?#@\s]+)/(?:api/)?"
    r"(?:tasks/(?P<task>\d{1,18})(?:/jobs/(?P<of_task>\d{1,18}))?|projects/(?P<project>\d{1,18})|jobs/(?P<job>\d{1,18}))"
    r"/?(?:[?#].*)?",
    re.IGNORECASE | re.ASCII,
)


@dataclass(frozen=True)
class Place:
    """A task, a project or a job of a server."""

    host: str
    """Such as `https://cvat.example.com`."""
    kind: str
    """`task`, `project` or `job`, as the API spells them but for the plural."""
    id: int
    task: int | None = None
    """The task that the address says a job is of."""

    def __str__(self) -> str:
        within = f"tasks/{self.task}/" if self.task else ""
        return f"{self.host}/{within}{self.kind}s/{self.id}"


def parse(text: str) -> list[Place]:
    """Read one or several addresses, separated by commas; a bare number stands for one more of the same kind.

    Returns:
        The places, each once; none where `text` is no address of a CVAT server's, but, say, one of a bucket.

    Raises:
        StepError: some are addresses of a server and others are not, or they are on two servers.
    """
    places: list[Place] = []
    items = [item for item in map(str.strip, text.split(",")) if item]
    for item in items:
        if places and re.fullmatch(r"[0-9]{1,18}", item):
            places.append(Place(places[-1].host, places[-1].kind, int(item), places[-1].task))
        elif found := _PLACE.fullmatch(item):
            job = found["of_task"] or found["job"]
            kind = "job" if job else "task" if found["task"] else "project"
            task = int(found["task"]) if found["of_task"] else None
            places.append(Place(found["host"], kind, int(job or found["task"] or found["project"]), task))
        elif places:
            raise StepError(f"'{item}' is not a task, a project or a job of {places[0].host}: give {EXAMPLE},43")
        else:
            return []
    if len({place.host for place in places}) > 1:
        raise StepError(f"{places[0]} and {places[-1]} are on two servers: fetch from one at a time")
    return list(dict.fromkeys(places))


def parse_server(text: str) -> tuple[str, int | None]:
    """Read the address of a server, or of a project on it; give the host and the project's number.

    Raises:
        StepError: it is neither.
    """
    if _SERVER.fullmatch(text):
        return text.rstrip("/"), None
    places = parse(text)
    if len(places) != 1 or places[0].kind != "project":
        raise StepError(f"'{text}' is neither a CVAT server nor a project on one: give {SERVER_EXAMPLE}")
    return places[0].host, places[0].id
