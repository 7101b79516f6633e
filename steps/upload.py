"""Upload what a run made, and say what lies where."""

import logging
import tempfile
import uuid
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.filesize import decimal

from steps.common.errors import StepError, TemporaryError
from steps.common.files import parse_json, write_json
from steps.options import Bucket, Endpoint, OutputDir, Region
from steps.storage.config import StorageConfig
from steps.storage.errors import NotAllowedError
from steps.storage.objects import Sent
from steps.storage.store import Storage, open_storage

log = logging.getLogger(__name__)

MANIFEST = "manifest.json"
NOTE = ".upload.json"
"""Lies beside the objects while an upload is under way, or after one was killed: whose they are."""


def upload_artifacts(
    output_dir: OutputDir,
    output_path: Annotated[str, typer.Option(help="Where to: a key prefix in the bucket, or s3://bucket/prefix.")],
    manifest_file: Annotated[str, typer.Option(help="File that gets a copy of the manifest. Empty: none.")] = "",
    bucket: Bucket = "",
    endpoint: Endpoint = "",
    region: Region = "",
) -> list[str]:
    """Put every file of `output_dir` under `output_path`, and last of all a manifest of them.

    The manifest, `manifest.json`, lists key, size in bytes and SHA-256 of each object, as they were sent; where it
    lies, the upload was complete. Hidden and unfinished files stay behind. Objects of an earlier upload that this
    one does not have are removed, and its manifest before anything else.

    Returns:
        The complete keys, the manifest's last.

    Raises:
        StepError: there is nothing to upload, or the storage refuses.
        TemporaryError: a file changes meanwhile, another upload to that place is under way, or the network fails.
    """
    output_dir = Path(output_dir)
    if not output_dir.is_dir():
        raise StepError(f"--output-dir {output_dir} is not a folder: give the one that training and evaluation wrote")
    files = [path for path in sorted(output_dir.rglob("*")) if path.is_file() and _is_artifact(path, output_dir)]
    if not files:
        raise StepError(f"--output-dir {output_dir} holds no file: training and evaluation write there, run them first")
    if not output_path.strip("/ "):
        raise StepError("--output-path is empty: give the key prefix under which the artifacts shall lie")
    config = StorageConfig.resolve(bucket=bucket, endpoint=endpoint, region=region)
    storage, prefix = open_storage(output_path, config, create=True)

    uploads = [(path, _key(prefix, path.relative_to(output_dir).as_posix())) for path in files]
    storage.refuse_odd_keys([key for _, key in uploads])
    generation = _Generation(storage, prefix)
    generation.begin([key for _, key in uploads])
    sent = storage.upload(uploads)
    manifest_key, manifest = generation.complete(sent)
    if manifest_file:
        write_json(Path(manifest_file), manifest)

    log.info(
        "uploaded %d files (%s) to %s/%s", len(sent), decimal(sum(each.size for each in sent)), storage.url, prefix
    )
    for each in sent:
        log.info("%10s  %s", decimal(each.size), each.key)
    log.info("%10s  %s", "manifest", manifest_key)
    return [each.key for each in sent] + [manifest_key]


class _Generation:
    """The objects under a prefix are those of one upload, or no manifest vouches for them.

    A note of the keys of both uploads, the last one's and ours, is put before anything is altered: whoever comes
    after an upload that was killed knows from it what to remove. As long as it is ours, nobody else is at work.
    """

    def __init__(self, storage: Storage, prefix: str) -> None:
        self._storage = storage
        self._prefix = prefix
        self._manifest = _key(prefix, MANIFEST)
        self._note = _key(prefix, NOTE)
        self._name = uuid.uuid4().hex
        self._old: set[str] = set()

    def begin(self, keys: Sequence[str]) -> None:
        """Take the old manifest away."""
        manifest, note = self._read(self._manifest) or {}, self._read(self._note) or {}
        listed = manifest.get("files", []) if isinstance(manifest.get("files"), list) else []
        noted = note.get("keys", []) if isinstance(note.get("keys"), list) else []
        found = {each.get("key") for each in listed if isinstance(each, dict)} | {*map(str, noted)}
        # Whatever a manifest says, what lies elsewhere is not ours.
        inside = {key for key in found if isinstance(key, str) and key.startswith(_key(self._prefix, ""))}
        self._old = inside - {self._manifest, self._note} - set(keys)
        self._put(self._note, {"upload": self._name, "keys": sorted(self._old | set(keys))})
        if manifest:
            self._storage.remove([self._manifest])

    def complete(self, sent: Sequence[Sent]) -> tuple[str, dict[str, Any]]:
        """Remove what is old, put the manifest; give its key and its content.

        Raises:
            TemporaryError: another upload interfered.
        """
        self._storage.remove(sorted(self._old))
        if not self._undisturbed(sent):
            raise TemporaryError(
                f"another upload to {self._storage.url}/{self._prefix} is under way: run the step again after it"
            )
        manifest = {"files": [{"key": each.key, "size": each.size, "sha256": each.sha256} for each in sent]}
        self._put(self._manifest, manifest)
        with suppress(NotAllowedError):  # It does no harm.
            self._storage.remove([self._note])
        return self._manifest, manifest

    def _undisturbed(self, sent: Sequence[Sent]) -> bool:
        """Tell whether what lies there is what was sent; whoever may not look is believed."""
        note = self._read(self._note)
        if note is not None and note.get("upload") != self._name:
            return False
        with suppress(NotAllowedError):
            there = {remote.key: remote.etag for remote in self._storage.list(self._prefix)}
            return all(there.get(each.key) == each.etag for each in sent)
        return True

    def _read(self, key: str) -> dict[str, Any] | None:
        """Give what a JSON object at a key holds; of one that is damaged, that it is there; None: not allowed."""
        try:
            content = self._storage.read(key)
        except NotAllowedError:
            return None
        try:
            value = parse_json(content) if content else {}
        except ValueError:
            value = None
        return value if isinstance(value, dict) else {"damaged": True}

    def _put(self, key: str, value: Any) -> None:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / key.rpartition("/")[2]
            write_json(path, value)
            self._storage.upload([(path, key)])


def _key(prefix: str, name: str) -> str:
    return f"{prefix}/{name}" if prefix else name


def _is_artifact(path: Path, output_dir: Path) -> bool:
    relative = path.relative_to(output_dir)
    # A manifest of an earlier upload would claim to be this one's.
    return relative.as_posix() != MANIFEST and not any(part.startswith(".") for part in relative.parts)
