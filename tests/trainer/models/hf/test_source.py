"""Models from a hub on this machine: one that works, and those that do not."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from tests.trainer.models.hub import COMMIT, Hub, nowhere, refusing
from trainer.errors import PassingError, TrainerError
from trainer.models.hf.source import find_source

constants = pytest.importorskip("huggingface_hub.constants")

NAME = "someone/detector"
FILES = {
    "config.json": b"{}",
    "model.safetensors": b"weights",
    "README.md": b"---\nlicense: mit\n---\n",
    "pytorch_model.bin": b"the same weights again",
    "pictures/cat.png": b"a picture",
}


@pytest.fixture
def hub(hub_of: Callable[..., None]) -> Callable[..., None]:
    """Starts a hub with one model."""
    return lambda refuse=None: hub_of(NAME, FILES, refuse)


def test_a_model_is_downloaded_once_with_its_license(hub: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    hub()
    source = find_source(NAME)
    assert (source.revision, source.license) == (COMMIT, "mit")
    assert {path.name for path in source.folder.iterdir()} == {"config.json", "model.safetensors", "README.md"}
    # Later the hub is away, and the cache answers.
    monkeypatch.setenv("HF_ENDPOINT", nowhere())
    assert find_source(NAME) == source


def test_half_a_download_is_finished_later(hub: Callable[..., None]) -> None:
    hub(refusing(403, f"/{NAME}/resolve/{COMMIT}/model.safetensors"))
    with pytest.raises(TrainerError, match=r"asks for a token"):
        find_source(NAME)
    hub()
    assert (find_source(NAME).folder / "model.safetensors").read_bytes() == b"weights"


@pytest.mark.parametrize(
    ("refuse", "words"),
    [
        (refusing(404, X_Error_Code="RepoNotFound"), "has no such model, or it is private; check the name"),
        (refusing(401), r"asks for a token that may read the model \(401\); set HF_TOKEN"),
        (refusing(401, f"/{NAME}/resolve", X_Error_Code="GatedRepo"), "asks for a token; accept the model's terms"),
        (refusing(403, f"/{NAME}/resolve", X_Error_Code="GatedRepo"), "asks for a token; accept the model's terms"),
        (refusing(403), r"asks for a token that may read the model \(403\); set HF_TOKEN"),
        (refusing(500), r"answers with an error \(500\)"),
    ],
)
def test_a_hub_that_refuses_is_told_in_a_line(hub: Callable[..., None], refuse: Any, words: str) -> None:
    hub(refuse)
    with pytest.raises(TrainerError, match=rf"^hf:{NAME}: http://127.0.0.1:\d+ {words}") as caught:
        find_source(NAME)
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value, PassingError) == ("(500)" in str(caught.value))


@pytest.mark.parametrize("where", ["/api", f"/{NAME}/resolve/{COMMIT}/model.safetensors"])
def test_a_hub_that_hangs_is_given_up(hub: Callable[..., None], where: str) -> None:
    over = threading.Event()

    def hang(request: Hub) -> bool:
        return request.path.startswith(where) and not over.wait()

    hub(hang)
    try:
        with pytest.raises(PassingError, match=r"does not answer; check the network and HF_ENDPOINT, or name a folder"):
            find_source(NAME, silence=2)
    finally:
        over.set()


def test_a_hub_that_is_not_there_is_told_in_a_line(hub: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", nowhere())
    with pytest.raises(TrainerError, match=r"cannot be reached .*; check the network and HF_ENDPOINT") as caught:
        find_source(NAME)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "words"), [("one word", "is named OWNER/NAME"), ("a/b/c", "no such folder"), ("./here", "no such folder")]
)
def test_a_name_that_cannot_be_is_refused(name: str, words: str, hub: Callable[..., None]) -> None:
    hub()
    with pytest.raises(TrainerError, match=words):
        find_source(name)
