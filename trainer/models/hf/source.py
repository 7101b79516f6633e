"""Where a published model lies: a folder, or the Hugging Face hub."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml

from trainer.errors import PassingError, TrainerError

_log = logging.getLogger("trainer")

SILENCE = 45.0
"""Seconds without a byte after which a hub counts as not answering."""
PROBE = 8.0
"""The same where nobody asked for the hub, and there is something else to train."""

DOWNLOAD = "hub download"
"""Name of the threads that fetch from a hub."""

_DESCRIPTION = ["config.json", "preprocessor_config.json", "processor_config.json", "README.md"]
_SAFETENSORS = ["*.safetensors", "*.safetensors.index.json"]
_PICKLES = ["pytorch_model*.bin", "pytorch_model.bin.index.json"]


@dataclass(frozen=True)
class Source:
    """A published model on this machine."""

    name: str
    """As the user gave it, without `hf:`."""
    folder: Path
    revision: str | None
    """The commit on the hub; None for a folder of the user's."""
    license: str | None
    """As the model card says."""


def require_library() -> None:
    """Checks that `transformers` is installed, without importing it.

    Raises:
        TrainerError: it is not.
    """
    try:
        found = find_spec("transformers")
    except ValueError:
        found = None
    if found is None:
        raise TrainerError("hf: models need `pip install 'cvat-detr[hf]'`")


def find_source(name: str, *, silence: float = SILENCE) -> Source:
    """The model of a name: a folder if there is one, else the hub's, from its cache or downloaded.

    What was downloaded once stays as it is, whatever is published later and whether or not the hub is there. The hub is
    that of the environment variable HF_ENDPOINT, the token that of HF_TOKEN or of `hf auth login`.

    Args:
        name: a folder that holds config.json, or a repository on the hub, such as "ustc-community/dfine-small-coco".
        silence: seconds without a byte after which the hub counts as not answering.

    Raises:
        PassingError: the hub fails or does not answer.
        TrainerError: there is no such model, the hub cannot be reached, or it asks for a token.
    """
    require_library()
    path = Path(os.path.expanduser(name))
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise TrainerError(f"hf:{name}: the folder has no config.json; name one that save_pretrained wrote")
        return Source(name, path, None, _license_of(path))
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise TrainerError(f"hf:{name}: there is no such folder")
    folder = _download(name, silence)
    return Source(name, folder, folder.name, _license_of(folder))


def obtain(name: str) -> str | None:
    """Brings a model of the hub onto this machine; why that is not possible, or None once it is here."""
    try:
        find_source(name, silence=PROBE)
    except TrainerError as error:
        return str(error).partition(";")[0]
    return None


def _license_of(folder: Path) -> str | None:
    """The `license` of the model card's YAML header (https://huggingface.co/docs/hub/model-cards), if it has one."""
    from huggingface_hub.repocard import metadata_load

    card = folder / "README.md"
    if not card.is_file():
        return None
    try:
        header = metadata_load(card) or {}
    except (ValueError, OSError, yaml.YAMLError):
        return None
    named = header.get("license_name") if header.get("license") == "other" else None
    found = named or header.get("license")
    return None if found is None else str(found)


def _download(name: str, silence: float) -> Path:
    """The folder in the hub's cache, with what is needed to build and load a model and nothing else."""
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError
    from huggingface_hub.file_download import repo_folder_name
    from huggingface_hub.utils import disable_progress_bars
    from huggingface_hub.utils.logging import set_verbosity_error

    # What matters of its retries is said in one line, in the end.
    set_verbosity_error()
    disable_progress_bars()
    endpoint = os.environ.get("HF_ENDPOINT") or constants.ENDPOINT
    cache = Path(constants.HF_HUB_CACHE)

    def fetch(from_cache: bool = False) -> Path:
        where: dict[str, Any] = {"endpoint": endpoint, "cache_dir": cache, "local_files_only": from_cache}
        folder = Path(snapshot_download(name, allow_patterns=_DESCRIPTION + _SAFETENSORS, **where))
        if not any(folder.glob("*.safetensors")):
            snapshot_download(name, allow_patterns=_PICKLES, revision=folder.name, **where)
        return folder

    try:
        with contextlib.suppress(LocalEntryNotFoundError):
            return fetch(from_cache=True)
        _log.info("hf:%s: looking on %s", name, endpoint)
        folder = _while_it_grows(fetch, cache / repo_folder_name(repo_id=name, repo_type="model"), silence)
    except HFValidationError:
        raise TrainerError(f"hf:{name}: a model on the hub is named OWNER/NAME, and there is no such folder") from None
    except OSError as error:  # Also what the hub's library raises, but for names that cannot be.
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS):
            raise TrainerError(f"hf:{name}: cannot write to {cache} ({error.strerror}); set HF_HOME") from None
        raise _refusal(name, error, endpoint) from None
    except Exception as error:
        if type(error).__module__.partition(".")[0] not in ("httpx", "httpx2", "httpcore2", "huggingface_hub"):
            raise
        raise _refusal(name, error, endpoint) from None
    if not (folder / "config.json").is_file():
        raise TrainerError(f"hf:{name}: the repository has no config.json, so it is not a model of transformers")
    return folder


def _while_it_grows(work: Callable[[], Path], folder: Path, silence: float) -> Path:
    """What `work` returns, unless a folder stops growing before it does.

    The hub's library has timeouts, but repeats requests, and each way in which it moves bytes has its own.

    Raises:
        TimeoutError: the folder has not grown for so many seconds. The thread that waits is left to itself.
    """
    result: list[Any] = []
    error: list[BaseException] = []

    def run() -> None:
        try:
            result.append(work())
        except BaseException as problem:
            error.append(problem)

    thread = threading.Thread(target=run, daemon=True, name=DOWNLOAD)
    thread.start()
    size, since = -1, time.monotonic()
    while True:
        thread.join(0.2)
        if not thread.is_alive():
            break
        if (now := _size(folder)) != size:
            size, since = now, time.monotonic()
        elif time.monotonic() - since > silence:
            raise TimeoutError(f"nothing came in {silence:.0f} s")
    if error:
        raise error[0]
    return Path(result[0])


def _size(folder: Path) -> int:
    """Bytes in a folder's files."""
    total = 0
    for file in folder.rglob("*"):
        try:
            total += file.stat().st_size if file.is_file() else 0
        except OSError:  # A download has just been renamed.
            continue
    return total


def _refusal(name: str, error: BaseException, endpoint: str) -> TrainerError:
    """What went wrong with the hub, and what to do about it, in one line."""
    reason, passing = _reason(error, endpoint)
    return (PassingError if passing else TrainerError)(f"hf:{name}: {reason}")


def _reason(error: BaseException, endpoint: str) -> tuple[str, bool]:
    """In words, and whether it may pass."""
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, OfflineModeIsEnabled, RepositoryNotFoundError

    chain: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and link not in chain:
        chain.append(link)
        link = link.__cause__ or link.__context__
    for link in chain:
        if isinstance(link, OfflineModeIsEnabled):
            return "HF_HUB_OFFLINE is set, and the model is not in the cache; unset it, or name a folder", False
        if isinstance(link, GatedRepoError):
            return f"{endpoint} asks for a token; accept the model's terms there and set HF_TOKEN", False
        if isinstance(link, RepositoryNotFoundError):
            return f"{endpoint} has no such model, or it is private; check the name, or set HF_TOKEN", False
        if isinstance(link, HfHubHTTPError) and link.response is not None:
            status = link.response.status_code
            if status in (401, 403):
                return f"{endpoint} asks for a token that may read the model ({status}); set HF_TOKEN", False
            remedy = "try again, or name a folder that holds the model"
            return f"{endpoint} answers with an error ({status}); {remedy}", status >= 500 or status == 429
    remedy = "check the network and HF_ENDPOINT, or name a folder that holds the model"
    if any(isinstance(link, TimeoutError) or "Timeout" in type(link).__name__ for link in chain):
        return f"{endpoint} does not answer; {remedy}", True
    first = str(chain[-1]).strip().splitlines()
    return f"{endpoint} cannot be reached ({first[0] if first else type(chain[-1]).__name__}); {remedy}", False
