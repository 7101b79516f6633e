"""Upload what a run made, and say what lies where."""

import hashlib
import logging
import tempfile
from pathlib import Path
from typing import Annotated

import typer
from rich.filesize import decimal

from steps.common.errors import StepError
from steps.common.files import write_json
from steps.options import Bucket, Endpoint, OutputDir, Region
from steps.storage.config import StorageConfig
from steps.storage.store import open_storage

log = logging.getLogger(__name__)

MANIFEST = "manifest.json"


def upload_artifacts(
    output_dir: OutputDir,
    output_path: Annotated[str, typer.Option(help="Where to: a key prefix in the bucket, or s3://bucket/prefix.")],
    bucket: Bucket = "",
    endpoint: Endpoint = "",
    region: Region = "",
) -> list[str]:
    """Put every file of `output_dir` under `output_path`, and last of all a manifest of them.

    The manifest, `manifest.json`, lists key, size in bytes and SHA-256 of each object; where it lies, the
    upload was complete. Hidden and unfinished files stay behind.

    Returns:
        The complete keys, the manifest's last.

    Raises:
        StepError: there is nothing to upload, or the storage refuses.
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

    uploads = [(path, "/".join(filter(None, [prefix, path.relative_to(output_dir).as_posix()]))) for path in files]
    listed = [{"key": key, "size": path.stat().st_size, "sha256": _sha256(path)} for path, key in uploads]
    storage.upload(uploads)
    manifest_key = "/".join(filter(None, [prefix, MANIFEST]))
    with tempfile.TemporaryDirectory() as folder:
        manifest = Path(folder) / MANIFEST
        write_json(manifest, {"files": listed})
        storage.upload([(manifest, manifest_key)])

    total = sum(path.stat().st_size for path in files)
    log.info("uploaded %d files (%s) to %s/%s", len(files), decimal(total), storage.url, prefix)
    for path, key in uploads:
        log.info("%10s  %s", decimal(path.stat().st_size), key)
    log.info("%10s  %s", "manifest", manifest_key)
    return [key for _, key in uploads] + [manifest_key]


def _is_artifact(path: Path, output_dir: Path) -> bool:
    relative = path.relative_to(output_dir)
    # A manifest of an earlier upload would claim to be this one's.
    return relative.as_posix() != MANIFEST and not any(part.startswith(".") for part in relative.parts)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        sum_ = hashlib.sha256()
        while block := file.read(1024 * 1024):
            sum_.update(block)
    return sum_.hexdigest()
