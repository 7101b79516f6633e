"""What the tests of the pipelines share."""

import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from pipelines.workflow.parameters import SOURCE


@dataclass(frozen=True)
class Repository:
    """A git repository that git finds at the address of `source`."""

    path: Path

    def git(self, *words: str) -> str:
        identity = ("-c", "user.name=nobody", "-c", "user.email=nobody@example.com")
        command = ["git", "-C", str(self.path), *identity, *words]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    def commit(self) -> str:
        self.git("commit", "--allow-empty", "--message", "x")
        return self.git("rev-parse", "HEAD")


@pytest.fixture(scope="session", autouse=True)
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder in which git finds the repositories of all hosts: no test asks one in the world."""
    folder = tmp_path_factory.mktemp("hosts")
    variables = {
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": f"url.file://{folder}/.insteadOf",
        "GIT_CONFIG_VALUE_0": "https://",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
        yield folder


@pytest.fixture
def source(hosts: Path) -> Iterator[Repository]:
    """The repository of the workflow's `source`, with a commit on `main`."""
    repository = Repository(hosts / SOURCE.value.removeprefix("https://"))
    repository.path.mkdir(parents=True)
    repository.git("init", "--quiet", "--initial-branch=main")
    repository.commit()
    yield repository
    shutil.rmtree(repository.path)
