"""Putting a file on S3, so that what lies there is what was in the file."""

import base64
import contextlib
import hashlib
import itertools
import mimetypes
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

from steps.common.errors import StepError, TemporaryError
from steps.common.messages import printable
from steps.storage.checksums import Sums, multipart_tag
from steps.storage.errors import NotThereError
from steps.storage.objects import Sent
from steps.storage.s3_answers import text_of, xml_of
from steps.storage.threads import BUFFERS, PART_BYTES, PARTS_IN_FLIGHT, each
from steps.storage.wire import Answer

MOST_PARTS = 10_000
"""S3's own limit."""


@dataclass(frozen=True)
class _Part:
    tag: str
    md5: bytes
    sha256: bytes
    encrypted: bool


def upload(s3: Any, path: Path, key: str) -> Sent:
    """Put a file at a key, a large one in parts.

    Each body goes with its MD5 and SHA-256 sums, at which the store refuses a damaged one; the entity tag that
    comes back is compared as well, because not every store looks at them.

    Raises:
        StepError: the store refuses.
        TemporaryError: the file changes while it is read, or failures did not end in time.
    """
    # Without a type a browser downloads the report instead of showing it.
    headers = {"content-type": mimetypes.guess_type(path.name)[0] or "application/octet-stream"}
    for _ in range(2):
        before = path.stat()
        if before.st_size <= PART_BYTES:
            body = path.read_bytes()
            if _same(before, path):
                part = _put(s3, key, body, {}, headers)
                return Sent(key, len(body), part.sha256.hex(), part.tag)
        elif sent := _upload_in_parts(s3, path, key, headers):
            return sent
    raise TemporaryError(f"{path} changes while it is uploaded: run the step again once nothing writes to it")


def _same(before: Any, path: Path) -> bool:
    after = path.stat()
    return (before.st_size, before.st_mtime_ns, before.st_ino) == (after.st_size, after.st_mtime_ns, after.st_ino)


def _put(s3: Any, key: str, body: bytes | memoryview, query: Mapping[str, str], headers: Mapping[str, str]) -> _Part:
    md5 = hashlib.md5(body, usedforsecurity=False).digest()
    sha256 = hashlib.sha256(body).digest()
    sums = {
        "content-md5": base64.b64encode(md5).decode(),
        "x-amz-checksum-sha256": base64.b64encode(sha256).decode(),
    }

    def is_what_was_sent(answer: Answer) -> bool:
        there = Sums.of(answer.headers)
        tag_agrees = not there.tag_is_md5 or there.etag == md5.hex()
        return tag_agrees and there.values.get("sha256", "") in ("", sums["x-amz-checksum-sha256"])

    answer = s3.request("PUT", key, query=query, headers={**sums, **headers}, body=body, accept=is_what_was_sent)
    there = Sums.of(answer.headers)
    return _Part(there.etag, md5, sha256, not there.tag_is_md5)


def _upload_in_parts(s3: Any, path: Path, key: str, headers: Mapping[str, str]) -> Sent | None:
    """Put a large file; None where it changed meanwhile."""
    _abandon_left_parts(s3, key)
    before = path.stat()
    if before.st_size > MOST_PARTS * PART_BYTES:
        raise StepError(f"{path} is larger than {MOST_PARTS} parts of {PART_BYTES} bytes: S3 takes no more")
    sum_ = hashlib.sha256()
    parts: dict[int, _Part] = {}

    def bodies() -> Iterator[tuple[int, memoryview, memoryview]]:
        # Read in order, whoever sends: the sum is that of what was sent, not of what lies there later.
        with path.open("rb") as file:
            for number in itertools.count(1):
                buffer = BUFFERS.take()
                try:
                    body = buffer[: file.readinto(buffer)]
                    sum_.update(body)
                except BaseException:
                    BUFFERS.give_back(buffer)
                    raise
                if not len(body):
                    BUFFERS.give_back(buffer)
                    return
                yield number, body, buffer

    start = s3.request("POST", key, query={"uploads": ""}, headers={"x-amz-checksum-algorithm": "SHA256", **headers})
    name = text_of(xml_of(start, s3.where), "UploadId")

    def put(item: tuple[int, memoryview, memoryview]) -> None:
        number, body, buffer = item
        try:
            parts[number] = _put(s3, key, body, {"partNumber": str(number), "uploadId": name}, {})
        finally:
            BUFFERS.give_back(buffer)

    finished = False
    try:
        each(bodies(), PARTS_IN_FLIGHT, put)
        if not _same(before, path):
            return None
        tag = _finish(s3, key, name, [parts[number] for number in sorted(parts)])
        finished = True
    finally:
        if not finished:
            _abandon(s3, key, name)
    return Sent(key, before.st_size, sum_.hexdigest(), tag)


def _finish(s3: Any, key: str, name: str, parts: list[_Part]) -> str:
    """Make an object of its parts; give its entity tag."""
    listed = "".join(
        f"<Part><PartNumber>{number}</PartNumber><ETag>&quot;{escape(part.tag)}&quot;</ETag>"
        f"<ChecksumSHA256>{base64.b64encode(part.sha256).decode()}</ChecksumSHA256></Part>"
        for number, part in enumerate(parts, 1)
    )
    wanted = multipart_tag([part.md5 for part in parts])
    try:
        answer = s3.request(
            "POST",
            key,
            query={"uploadId": name},
            body=f"<CompleteMultipartUpload>{listed}</CompleteMultipartUpload>".encode(),
            # A failure may come with status 200, once the answer has begun.
            accept=lambda answer: b"<Error" not in bytes(answer.body[:1000]),
        )
        tag = text_of(xml_of(answer, s3.where), "ETag").strip('"')
    except NotThereError:
        # Either the answer to an earlier attempt was lost, or somebody removed the parts.
        tag = s3.head(key).etag
        if tag != wanted:
            raise
    if tag != wanted and not any(part.encrypted for part in parts):
        raise TemporaryError(f"{s3.url}/{key} arrived damaged (entity tag {printable(tag)}): run the step again")
    return tag


def _abandon(s3: Any, key: str, name: str) -> None:
    # What made us give up is the better message, and the next upload removes them.
    with contextlib.suppress(StepError):
        s3.afterwards().request("DELETE", key, query={"uploadId": name})


def _abandon_left_parts(s3: Any, key: str) -> None:
    """Remove the parts of killed uploads to a key."""
    # Not every account may list them; what is lost is space, and no object.
    with contextlib.suppress(StepError):
        page = xml_of(s3.request("GET", query={"uploads": "", "prefix": key}), s3.where)
        for entry in page.iterfind("{*}Upload"):
            if text_of(entry, "Key") == key:
                s3.request("DELETE", key, query={"uploadId": text_of(entry, "UploadId")})
