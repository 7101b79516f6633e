"""Keep prepared data in the bucket for runs that would make the same ones again."""

import hashlib
import logging
from pathlib import Path

import orjson

from steps.common.errors import StepError
from steps.common.files import parse_json, read_json, write_json
from steps.dataset.layout import check_prepared
from steps.dump.series import dump_version
from steps.dump.source import BucketFolder, Source
from steps.dump.target import STATE_DIR
from steps.options import Bucket, DatasetDir, Endpoint, Region
from steps.storage.config import StorageConfig
from steps.storage.store import open_storage
from steps.upload import MANIFEST, upload_artifacts

log = logging.getLogger(__name__)

_PLACE = f"{STATE_DIR}/memory.json"
"""Where in the bucket the data of this folder belong."""


def remember_data(dataset_dir: DatasetDir, bucket: Bucket = "", endpoint: Endpoint = "", region: Region = "") -> bool:
    """Put the prepared data where `fetch --memory` looks for them the next time.

    Returns:
        Whether they were put there; not where they are already, or hold hidden files, which no upload takes.

    Raises:
        StepError: fetch was not told of a memory, the data are not prepared, or the storage refuses.
        TemporaryError: another run is putting them there, or the network fails.
    """
    dataset_dir = Path(dataset_dir)
    if not (dataset_dir / _PLACE).is_file():
        raise StepError(f"{dataset_dir} does not say where to keep its data: fetch notes that, run it with --memory")
    place = str(read_json(dataset_dir / _PLACE, "fetch"))
    check_prepared(dataset_dir)
    inside = (path.relative_to(dataset_dir) for path in dataset_dir.rglob(".*"))
    if hidden := next((path for path in inside if path.parts[0] != STATE_DIR), None):
        # An upload leaves it behind, and what comes back would not be what was prepared.
        log.info("these data are not kept for other runs, since %s is hidden", hidden)
        return False
    if remembered(place, StorageConfig.resolve(bucket=bucket, endpoint=endpoint, region=region)):
        log.info("another run has put these data into %s", place)
        return False
    upload_artifacts(dataset_dir, place, bucket=bucket, endpoint=endpoint, region=region)
    return True


def place_of(memory: str, source: Source, state: str, settings: str, dataset_dir: Path) -> str:
    """Name the key prefix of the data that come of a dump: all that decides about them is hashed.

    That is the dump, as `dump_version` tells one state of it from another; the settings; this very code; and the
    folder, since the prepared files hold absolute paths.

    Args:
        memory: key prefix, or address, of all that is remembered.
        source: where the dump is.
        state: which jobs of a CVAT server count.
        settings: of the preparation, in any words.
        dataset_dir: where the data lie while they are used.
    """
    made_of = [str(source), state, dump_version(source, state), settings, str(dataset_dir.absolute()), _code()]
    return f"{memory.rstrip('/')}/{hashlib.sha256(orjson.dumps(made_of)).hexdigest()[:32]}"


def note_place(place: str, dataset_dir: Path) -> None:
    """Tell `remember_data` where the data of a folder belong."""
    write_json(dataset_dir / _PLACE, place)


def remembered(place: str, config: StorageConfig) -> BucketFolder | None:
    """Give the data that lie at a place; None where there are none, or not all that were put there.

    Raises:
        StepError: the storage refuses.
    """
    storage, prefix = open_storage(place, config)
    try:
        files = {each["key"]: each["size"] for each in parse_json(storage.read(f"{prefix}/{MANIFEST}") or b"")["files"]}
    except (ValueError, TypeError, KeyError):
        return None
    # A rule that removes old objects may be half way through.
    objects = [each for each in storage.list(prefix) if files.get(each.key) == each.size]
    return BucketFolder(storage, prefix, objects) if len(objects) == len(files) else None


def _code() -> str:
    """Tell this version of the code from any other: SHA-256 of its files."""
    root, sum_ = Path(__file__).parents[1], hashlib.sha256()
    for path in sorted(file for package in ("steps", "trainer") for file in (root / package).rglob("*.py")):
        sum_.update(f"{path.relative_to(root)}\0".encode() + hashlib.sha256(path.read_bytes()).digest())
    return sum_.hexdigest()
