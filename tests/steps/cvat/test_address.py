"""What is an address of a CVAT server's, and what is not."""

from __future__ import annotations

import pytest

from steps.cvat.address import Place, parse
from steps.dump.source import locate
from steps.storage.config import StorageConfig
from tests.steps.refusals import refused

HOST = "https://cvat.example.com"


@pytest.mark.parametrize(
    ("text", "places"),
    [
        (f"{HOST}/tasks/42", [Place(HOST, "task", 42)]),
        (f"{HOST}/projects/7/", [Place(HOST, "project", 7)]),
        (f"{HOST}/tasks/1/jobs/2?frame=3", [Place(HOST, "job", 2, 1)]),
        (f"{HOST}/api/jobs/2", [Place(HOST, "job", 2)]),
        ("http://localhost:8080/tasks/42#x", [Place("http://localhost:8080", "task", 42)]),
        (f"{HOST}/tasks/42, {HOST}/tasks/1/jobs/2", [Place(HOST, "task", 42), Place(HOST, "job", 2, 1)]),
        (f"{HOST}/tasks/42,43,42,", [Place(HOST, "task", 42), Place(HOST, "task", 43)]),
        ("https://s3.example.com/bucket/tasks/42.zip", []),
        ("https://s3.example.com/bucket/tasks/42", []),
        ("s3://bucket/tasks/42", []),
        ("tasks/42", []),
        ("annotation-dump/7/,8", []),
    ],
)
def test_the_scheme_and_the_path_choose(text: str, places: list[Place]) -> None:
    assert parse(text) == places


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (f"{HOST}/tasks/42,{HOST}/models", "'https://cvat.example.com/models' is not a task"),
        (f"{HOST}/tasks/42,http://other/tasks/1", "two servers"),
        (f"{HOST}/tasks", "neither a task of a CVAT server nor an address in object storage"),
        ("https://s3.example.com/bucket/dump.zip", "s3://bucket/key"),
        (f"{HOST}/tasks/{'9' * 5000}", "neither a task"),
        (f"{HOST}/tasks/\u0664\u0662", "neither a task"),
        (f"{HOST}/tasks/1,{'9' * 5000}", "is not a task"),
    ],
)
def test_what_is_neither_is_refused(text: str, words: str) -> None:
    with refused(words):
        locate(text, "", StorageConfig())
