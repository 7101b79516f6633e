"""Object storage: which bucket, who we are there, and the bytes to and fro.

boto3 settles endpoint, region and credentials, and puts a refusal into words; obstore moves the bytes, with
many small objects in flight at once and large ones in parts. The scheme of an address chooses the store:
`s3://` (tested here), `gs://` and `az://` (configured through the environment variables that obstore names),
`file://`.
"""

import hashlib
import logging
import mimetypes
import os
import re
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import unquote, urlsplit

import boto3
import obstore
import yaml
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionError,
    HTTPClientError,
    NoCredentialsError,
)
from obstore.auth.boto3 import Boto3CredentialProvider
from obstore.exceptions import BaseError, PermissionDeniedError, UnauthenticatedError
from obstore.store import LocalStore, S3Store, from_url

from steps.common.errors import StepError
from steps.common.progress import Advance, progress

log = logging.getLogger(__name__)

ONEPANEL_CONFIG_DIR = Path("/etc/onepanel")
"""Where Onepanel mounts `artifactRepository` and the files of the keys that it names."""
BUCKET_VARIABLE = "S3_BUCKET"
"""AWS has no standard variable for a bucket's name; this is ours."""

OBJECTS_IN_FLIGHT = 32
PART_BYTES = 8 * 1024 * 1024
"""Objects above this size move in parts of it; what is in memory is bounded by this times the flights."""
PARTS_IN_FLIGHT = 8

CREDENTIAL_CODES = {
    "ExpiredToken",
    "InvalidAccessKeyId",
    "InvalidToken",
    "SignatureDoesNotMatch",
    "TokenRefreshRequired",
}
FORBIDDEN_CODES = {"AccessDenied", "AllAccessDisabled", "403"}

T = TypeVar("T")
END = object()


@dataclass(frozen=True)
class StorageConfig:
    """Where objects live. An empty field means: leave it to boto3's own resolution."""

    bucket: str = ""
    """A bucket's name, or an address with a scheme, such as `gs://name`."""
    endpoint: str = ""
    region: str = ""
    access_key: str = field(default="", repr=False)
    secret_key: str = field(default="", repr=False)
    origin: str = "the arguments and the AWS environment"
    """Where the values come from, for messages."""

    @classmethod
    def resolve(
        cls,
        *,
        bucket: str = "",
        endpoint: str = "",
        region: str = "",
        config_dir: Path = ONEPANEL_CONFIG_DIR,
        environ: Mapping[str, str] = os.environ,
    ) -> "StorageConfig":
        """Settle the configuration: arguments first, then Onepanel's mounted one, then the environment.

        Raises:
            StepError: the mounted configuration cannot be read or lacks what it must have.
        """
        mounted = _read_onepanel(config_dir)
        return cls(
            bucket=bucket or mounted.bucket or environ.get(BUCKET_VARIABLE, ""),
            endpoint=_with_scheme(endpoint) or mounted.endpoint,
            region=region or mounted.region,
            access_key=mounted.access_key,
            secret_key=mounted.secret_key,
            origin=mounted.origin,
        )


def _read_onepanel(config_dir: Path) -> StorageConfig:
    path = config_dir / "artifactRepository"
    if not path.is_file():
        return StorageConfig()
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise StepError(f"{path} is not readable YAML: {_one_line(error)}") from None
    section = document.get("s3") if isinstance(document, dict) else None
    if not isinstance(section, dict):
        raise StepError(f"{path} has no section 's3': give the storage's endpoint and bucket there")
    if not section.get("bucket"):
        raise StepError(f"{path} has no 's3.bucket': give the bucket's name there")

    def secret(name: str) -> str:
        reference = section.get(name)
        if not reference:
            return ""  # The pod's own identity, then.
        if not isinstance(reference, dict) or not reference.get("key"):
            raise StepError(f"{path}: 's3.{name}.key' must name a file beside it")
        file = config_dir / str(reference["key"])
        try:
            return file.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError):
            raise StepError(
                f"{path}: 's3.{name}.key' names {file}, which cannot be read: mount the secret that holds it there"
            ) from None

    access_key, secret_key = secret("accessKeySecret"), secret("secretKeySecret")
    if bool(access_key) != bool(secret_key):
        raise StepError(
            f"{path} gives only one of 's3.accessKeySecret' and 's3.secretKeySecret': give both, or neither for the "
            "pod's own identity"
        )
    return StorageConfig(
        bucket=str(section["bucket"]),
        endpoint=_with_scheme(str(section.get("endpoint") or ""), insecure=bool(section.get("insecure"))),
        region=str(section.get("region") or ""),
        access_key=access_key,
        secret_key=secret_key,
        origin=str(path),
    )


def _with_scheme(endpoint: str, *, insecure: bool = False) -> str:
    if not endpoint or "://" in endpoint:
        return endpoint
    return f"{'http' if insecure else 'https'}://{endpoint}"


@dataclass(frozen=True)
class RemoteObject:
    """One object: its complete key, its size in bytes, and its entity tag where the store gives one."""

    key: str
    size: int
    etag: str = ""


def has_scheme(path: str) -> bool:
    """Tell whether `path` is an address such as `s3://bucket/prefix`."""
    return re.match(r"[a-z][a-z0-9+.-]*://", path) is not None


def open_storage(path: str, config: StorageConfig) -> "tuple[Storage, str]":
    """Open the store that holds `path` and give the key in it.

    `path` is an address with a scheme, or a key in the configured bucket.

    Raises:
        StepError: no bucket is configured, the scheme is unknown, or the store refuses us.
    """
    if not has_scheme(path):
        if not config.bucket:
            raise StepError(
                f"'{path}' is a key in a bucket, and no bucket is configured: give --bucket, "
                f"mount {ONEPANEL_CONFIG_DIR}/artifactRepository, set {BUCKET_VARIABLE}, or write s3://bucket/key"
            )
        base = config.bucket if has_scheme(config.bucket) else f"s3://{config.bucket}"
        path = f"{base.rstrip('/')}/{path.lstrip('/')}"
    parts = urlsplit(path, allow_fragments=False)
    # A key may hold '?' and '#': everything after the bucket's name is the key.
    key = _clean(path.partition("://")[2].partition("/")[2], path)
    if parts.scheme == "file":
        folder = Path("/") / unquote(key)
        if not folder.parent.is_dir():
            raise StepError(f"there is no folder {folder.parent}: check '{path}'")
        return Storage(LocalStore(folder.parent), f"file://{folder.parent}"), folder.name
    if parts.scheme in ("http", "https"):
        raise StepError(
            f"'{path}' is no address in object storage: write s3://bucket/key, and the server's own address as "
            "--endpoint"
        )
    if not parts.netloc:
        raise StepError(f"'{path}' names no bucket: write {parts.scheme}://bucket/key")
    if parts.scheme in ("s3", "s3a"):
        return _open_s3(parts.netloc, config), key
    address = f"{parts.scheme}://{parts.netloc}"
    try:
        return Storage(from_url(address), address), key
    except (BaseError, ValueError) as error:
        raise StepError(f"cannot open {address}: {_one_line(error)}") from None


def _clean(key: str, path: str) -> str:
    """Give a key as obstore takes it; empty segments, which people write by accident, fall away."""
    segments = [segment for segment in key.split("/") if segment]
    if {".", ".."} & set(segments) or re.search(r"[\x00-\x1f\x7f]", key):
        raise StepError(f"{path!r} has a segment '.' or '..' or a control character: give the key without it")
    return "/".join(segments)


def _open_s3(bucket: str, config: StorageConfig) -> "Storage":
    # Amazon's own endpoint is left to boto3, which knows the one of each region.
    endpoint = "" if _is_amazon(config.endpoint) else config.endpoint
    try:
        session = boto3.Session(
            aws_access_key_id=config.access_key or None,
            aws_secret_access_key=config.secret_key or None,
            region_name=config.region or None,
        )
        client = session.client(
            "s3",
            endpoint_url=endpoint or None,
            # S3 itself needs no region to be named; signatures do.
            region_name=session.region_name or "us-east-1",
            config=Config(
                connect_timeout=10,
                read_timeout=60,
                retries={"mode": "standard", "max_attempts": 3},
                s3={"addressing_style": "path"} if endpoint else {},
            ),
        )
        credentials = session.get_credentials()
    except (BotoCoreError, ValueError) as error:
        raise StepError(f"the S3 configuration ({config.origin}) cannot be used: {_one_line(error)}") from None
    if credentials is None:
        raise StepError(
            f"no S3 credentials for s3://{bucket}: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY or AWS_PROFILE, "
            f"give the pod an identity, or mount them in {ONEPANEL_CONFIG_DIR}"
        )
    endpoint = client.meta.endpoint_url
    region = _probe_s3(client, bucket, endpoint, config.origin) or client.meta.region_name
    # Without an endpoint obstore builds Amazon's from the region.
    address: Any = {} if _is_amazon(endpoint) else {"endpoint": endpoint}
    store = S3Store(
        bucket,
        **address,
        region=region,
        client_options={"allow_http": endpoint.startswith("http://"), "timeout": timedelta(minutes=5)},
        retry_config={"max_retries": 8, "retry_timeout": timedelta(minutes=2)},
        credential_provider=Boto3CredentialProvider(session),
    )
    return Storage(store, f"s3://{bucket}", where=f" at {endpoint}")


def _is_amazon(endpoint: str) -> bool:
    return re.search(r"\.amazonaws\.com(\.cn)?$", urlsplit(endpoint).hostname or "") is not None


def _probe_s3(client: Any, bucket: str, endpoint: str, origin: str) -> str:
    """Ask for one key, so that a refusal comes at once and with its reason; give the bucket's region."""
    try:
        answer = client.list_objects_v2(Bucket=bucket, MaxKeys=1)
    except NoCredentialsError:
        raise StepError(
            f"no S3 credentials for s3://{bucket}: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        ) from None
    except ClientError as error:
        answer = error.response
        code = answer.get("Error", {}).get("Code", "unknown")
        if code == "NoSuchBucket":
            raise StepError(
                f"there is no bucket '{bucket}' at {endpoint}: check the bucket's name and the endpoint ({origin})"
            ) from None
        if code in CREDENTIAL_CODES:
            raise StepError(
                f"{endpoint} refuses the credentials for bucket '{bucket}' ({code}): check the access key and the "
                f"secret key ({origin})"
            ) from None
        if code not in FORBIDDEN_CODES:
            raise StepError(f"{endpoint} does not serve bucket '{bucket}' ({code}): {_one_line(error)}") from None
        # Whoever may not list may still read or write: the operation itself will tell.
    except (ConnectionError, HTTPClientError) as error:
        raise StepError(
            f"no S3 server answers at {endpoint} ({type(error).__name__}): check the endpoint ({origin}; "
            "AWS_ENDPOINT_URL_S3 is the environment's)"
        ) from None
    except (BotoCoreError, ValueError) as error:
        raise StepError(f"bucket '{bucket}' at {endpoint} cannot be used: {_one_line(error)}") from None
    headers: dict[str, str] = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    return headers.get("x-amz-bucket-region", "")


class Storage:
    """One bucket or folder, through obstore. Keys are complete, without a leading slash."""

    def __init__(self, store: Any, url: str, *, where: str = "") -> None:
        self._store = store
        self.url = url
        """The bucket's address, such as `s3://bucket`."""
        self._where = where

    def list(self, prefix: str) -> list[RemoteObject]:
        """List the objects under `prefix`, a whole path segment: `a/b` does not list `a/bc`.

        Folder markers (empty objects whose key ends in a slash) are left out.
        """
        with _in_words(self):
            chunks = obstore.list(self._store, prefix.rstrip("/") or None, chunk_size=1000)
            found = [_remote(meta) for chunk in chunks for meta in chunk]
        # obstore gives a marker's key without the slash: only asking tells it from an empty file.
        return [remote for remote in found if remote.size or self.head(remote.key)]

    def head(self, key: str) -> RemoteObject | None:
        """Give the object at exactly `key`, or None."""
        if not key:
            return None
        with _in_words(self):
            try:
                return _remote(obstore.head(self._store, key))
            except FileNotFoundError:
                return None

    def children(self, prefix: str) -> Sequence[str]:
        """Name what lies directly under `prefix`, folders with a trailing slash."""
        with _in_words(self):
            found = obstore.list_with_delimiter(self._store, prefix.rstrip("/") or None)
        folders = [f"{path.rstrip('/').rpartition('/')[2]}/" for path in found["common_prefixes"]]
        files = [meta["path"] for meta in found["objects"] if meta["path"] != prefix.rstrip("/")]
        return sorted(folders + [path.rpartition("/")[2] for path in files])

    def download(
        self,
        wanted: Sequence[tuple[RemoteObject, Path]],
        scratch: Path,
        done: Callable[[RemoteObject, Path], None] = lambda remote, path: None,
    ) -> None:
        """Fetch each object to its path, whole or not at all.

        Bytes gather in `scratch` (on the same file system) under temporary names; length and, where the
        entity tag is one, the MD5 sum are checked, then the file is renamed. `done` is called after each.

        Raises:
            StepError: an object vanished, changed or arrived damaged, or the store refused.
        """
        if not wanted:
            return
        scratch.mkdir(parents=True, exist_ok=True)
        total = sum(remote.size for remote, _ in wanted)
        with progress(f"fetching {len(wanted)} objects", total) as advance, _in_words(self):
            _Download(self._store, self.url, scratch, advance, done).all(wanted)

    def upload(self, files: Sequence[tuple[Path, str]]) -> None:
        """Put each file at its key, large ones in parts, and check that the sizes arrived.

        Raises:
            StepError: the store refused, or holds another size than was sent.
        """
        total = sum(path.stat().st_size for path, _ in files)
        with progress(f"uploading {len(files)} files", total) as advance, _in_words(self):
            _each(files, PARTS_IN_FLIGHT, lambda item: advance(_upload(self._store, self.url, *item)))


def _remote(meta: Any) -> RemoteObject:
    return RemoteObject(key=meta["path"], size=meta["size"], etag=(meta.get("e_tag") or "").strip('"'))


class _in_words:  # noqa: N801 - used as a function
    """Turn obstore's exceptions into one line that names the bucket."""

    def __init__(self, storage: Storage) -> None:
        self._address = f"{storage.url}{storage._where}"

    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, PermissionDeniedError | UnauthenticatedError):
            raise StepError(f"{self._address} does not let these credentials do that: {_one_line(error)}") from None
        # A key that cannot be written as a path reaches us as a bare ValueError.
        if isinstance(error, BaseError) or (isinstance(error, ValueError) and "parse path" in str(error)):
            remedy = ": rename it" if re.search("invalid path|parse path", str(error)) else ""
            raise StepError(f"{self._address} failed: {_one_line(error)}{remedy}") from None


def _one_line(error: BaseException) -> str:
    # obstore appends its internal state from the second line on.
    text = str(error).strip()
    return " ".join(text.split("\n\nDebug source:")[0].split())[:400] or type(error).__name__


def _each(items: Iterable[T], workers: int, act: Callable[[T], None]) -> None:
    """Apply `act` to every item in `workers` threads; the first failure stops the rest.

    Threads rather than an event loop: obstore lets go of the interpreter while it waits, and so do the writing of
    files and the summing of bytes, which would hold an event loop up.
    """
    queue, turn, failed = iter(items), threading.Lock(), threading.Event()

    def work() -> None:
        while not failed.is_set():
            with turn:
                item = next(queue, END)
            if item is END:
                return
            try:
                act(item)  # type: ignore[arg-type] # END was just ruled out
            except BaseException:
                failed.set()
                raise

    with ThreadPoolExecutor(workers) as threads:
        tasks = [threads.submit(work) for _ in range(workers)]
        try:
            for task in tasks:
                task.result()
        except BaseException:
            failed.set()  # Ctrl-C arrives here, not in the threads.
            raise


class _Download:
    """Fetches objects into a folder, each under a temporary name until it is whole."""

    def __init__(
        self, store: Any, url: str, scratch: Path, advance: Advance, done: Callable[[RemoteObject, Path], None]
    ) -> None:
        self._store = store
        self._url = url
        self._scratch = scratch
        self._advance = advance
        self._done = done
        self._account = threading.Lock()
        self._parts = threading.BoundedSemaphore(PARTS_IN_FLIGHT)
        # Servers that encrypt with a managed key give tags that look like MD5 sums and are none.
        self._etag_is_md5 = True

    def all(self, wanted: Sequence[tuple[RemoteObject, Path]]) -> None:
        for folder in {target.parent for _, target in wanted}:
            folder.mkdir(parents=True, exist_ok=True)
        _each(wanted, min(OBJECTS_IN_FLIGHT, len(wanted)), lambda item: self._one(*item))

    def _one(self, remote: RemoteObject, target: Path) -> None:
        # A name a thread, used again and again: a name an object makes file systems twice as slow.
        temporary = self._scratch / str(threading.get_ident())
        digest = self._write(remote, temporary)
        if self._etag_is_md5 and digest and digest != remote.etag:
            if self._write(remote, temporary) != digest:
                raise StepError(f"{self._url}/{remote.key} arrived damaged twice (MD5 sum): run the step again")
            self._etag_is_md5 = False
        os.replace(temporary, target)
        with self._account:
            self._done(remote, target)
            self._advance(remote.size)

    def _write(self, remote: RemoteObject, temporary: Path) -> str:
        """Write the object's bytes; give their MD5 sum where the entity tag can be compared with it."""
        comparable = re.fullmatch(r"[0-9a-f]{32}", remote.etag) is not None
        if remote.size <= PART_BYTES:
            body = self._get(remote, 0, remote.size)
            temporary.write_bytes(body)
            return hashlib.md5(body, usedforsecurity=False).hexdigest() if comparable else ""
        with temporary.open("wb") as file:
            file.truncate(remote.size)

            def part(start: int) -> None:
                with self._parts:
                    os.pwrite(file.fileno(), self._get(remote, start, min(start + PART_BYTES, remote.size)), start)

            _each(range(0, remote.size, PART_BYTES), PARTS_IN_FLIGHT, part)
        return _md5_of_file(temporary) if comparable else ""

    def _get(self, remote: RemoteObject, start: int, end: int) -> memoryview:
        options: Any = {} if end - start == remote.size else {"range": (start, end)}
        try:
            response = obstore.get(self._store, remote.key, options=options)
            body = memoryview(response.bytes())
        except FileNotFoundError:
            raise StepError(
                f"{self._url}/{remote.key} vanished while it was being fetched: run the step again"
            ) from None
        if (response.meta.get("e_tag") or "").strip('"') != remote.etag or len(body) != end - start:
            raise StepError(f"{self._url}/{remote.key} changed while it was being fetched: run the step again")
        return body


def _md5_of_file(path: Path) -> str:
    sum_ = hashlib.md5(usedforsecurity=False)
    with path.open("rb") as file:
        while block := file.read(PART_BYTES):
            sum_.update(block)
    return sum_.hexdigest()


def _upload(store: Any, url: str, path: Path, key: str) -> int:
    """Put a file at a key, see that it arrived, and give its size."""
    size = path.stat().st_size
    content_type = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
    # Without a type a browser downloads the report instead of showing it.
    attributes: Any = {} if isinstance(store, LocalStore) else {"attributes": {"Content-Type": content_type}}
    obstore.put(
        store,
        key,
        path,
        **attributes,
        use_multipart=size > PART_BYTES,
        chunk_size=PART_BYTES,
        max_concurrency=PARTS_IN_FLIGHT,
    )
    arrived = obstore.head(store, key)["size"]
    if arrived != size:
        raise StepError(f"{url}/{key} holds {arrived} bytes of the {size} of {path}: run the step again")
    return size
