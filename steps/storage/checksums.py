"""What a store says of an object's bytes, and whether bytes agree with it.

S3 gives a checksum of the whole object (`x-amz-checksum-…`, or an entity tag that is its MD5 sum), or one of the
checksums of its parts (`…-N`). <https://docs.aws.amazon.com/AmazonS3/latest/userguide/checking-object-integrity.html>
"""

import base64
import functools
import hashlib
import re
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

CHEAPEST_FIRST = ("sha256", "crc64nvme", "crc32c", "crc32", "sha1")
"""By the time that a sum of them takes, but for SHA-256, which says most."""
MEBIBYTE = 1024 * 1024
USUAL_PARTS = (8, 16, 5, 10, 15, 32, 50, 64, 100, 128)
"""In mebibytes: those of AWS's command line and of boto3, MinIO's, and other tools'."""


class _Crc:
    """A cyclic redundancy check with hashlib's interface."""

    def __init__(self, extend: Callable[[Any, int], int], size: int) -> None:
        self._extend = extend
        self._size = size
        self.value = 0

    def update(self, data: Any) -> None:
        self.value = self._extend(data, self.value)

    def digest(self) -> bytes:
        return self.value.to_bytes(self._size, "big")


def _digest(algorithm: str) -> Any:
    if algorithm == "crc32":
        return _Crc(zlib.crc32, 4)
    if algorithm in ("crc32c", "crc64nvme"):
        from awscrt import checksums  # A tenth of a second to import, and large objects only need it.

        return _Crc(getattr(checksums, algorithm), 4 if algorithm == "crc32c" else 8)
    return hashlib.new(algorithm, usedforsecurity=False)


def multipart_tag(md5s: Sequence[bytes]) -> str:
    """Give the entity tag of an object in parts from the MD5 sums of these."""
    return f"{hashlib.md5(b''.join(md5s), usedforsecurity=False).hexdigest()}-{len(md5s)}"


@dataclass(frozen=True)
class Expected:
    """A checksum to compare with."""

    algorithm: str
    value: str
    """In hexadecimal."""
    parts: Sequence[int] = ()
    """Sizes in bytes of the parts whose checksums it sums up; empty: it is the whole object's."""
    guessed: bool = False
    """The sizes are what they usually are; the store did not tell them."""


@dataclass(frozen=True)
class Sums:
    """What a store says of an object."""

    etag: str = ""
    encrypted: bool = False
    """With a key of its own, so that the entity tag is no checksum."""
    values: Mapping[str, str] = field(default_factory=dict)
    """Checksums in base64 by lower-case algorithm, as the headers have them."""
    parts: Sequence[int] = ()
    guessed: bool = False

    @classmethod
    def of(cls, headers: Mapping[str, str]) -> "Sums":
        """Read headers, whose names are in lower case."""
        found = {
            name: headers[f"x-amz-checksum-{name}"] for name in CHEAPEST_FIRST if f"x-amz-checksum-{name}" in headers
        }
        return cls(
            etag=headers.get("etag", "").strip('"'),
            # SSE-S3, "AES256", leaves the MD5 sum in the tag; keys of KMS and of customers do not.
            encrypted=headers.get("x-amz-server-side-encryption", "").startswith("aws:")
            or "x-amz-server-side-encryption-customer-algorithm" in headers,
            values=found,
        )

    @property
    def tag_is_md5(self) -> bool:
        """Tell whether the entity tag can be an MD5 sum."""
        return not self.encrypted and re.fullmatch(r"[0-9a-f]{32}", self.etag) is not None

    @property
    def count(self) -> int:
        """Number of the object's parts; 0 where it is not told."""
        counts = [re.fullmatch(r".+-(\d{1,5})", text) for text in (self.etag, *self.values.values())]
        return max((int(found[1]) for found in counts if found), default=0)

    def with_parts(self, size: int, size_of: Callable[[int], int]) -> "Sums":
        """Add the sizes of the parts of an object of `size` bytes; `size_of` asks the store for one, counted from 1."""
        count = self.count
        if count < 2 or self.whole:
            return replace(self, parts=[size] if count == 1 else [])
        first = size_of(1)
        if first == size:  # It does not know of parts.
            first = _usual_part(size, count)
            last = size - first * (count - 1)
            return replace(self, parts=[*[first] * (count - 1), last] if last > 0 else [], guessed=True)
        last = size_of(count)
        if first * (count - 1) + last == size:
            parts = [*[first] * (count - 1), last]
        else:
            parts = [first, *(size_of(number) for number in range(2, count)), last]
        return replace(self, parts=parts if sum(parts) == size else [])

    @functools.cached_property
    def whole(self) -> Expected | None:
        """The cheapest checksum of the whole object."""
        for algorithm in CHEAPEST_FIRST:
            if (value := self.values.get(algorithm)) and "-" not in value:
                return Expected(algorithm, _hexadecimal(value))
        return Expected("md5", self.etag) if self.tag_is_md5 else None

    @functools.cached_property
    def expected(self) -> Expected | None:
        """The checksum to compare with; None where the store gives none that can be."""
        if self.whole or not self.parts:
            return self.whole
        ending = f"-{len(self.parts)}"
        for algorithm in CHEAPEST_FIRST:
            value = self.values.get(algorithm, "")
            if value.endswith(ending):
                return Expected(algorithm, _hexadecimal(value.removesuffix(ending)), self.parts, self.guessed)
        if not self.encrypted and re.fullmatch(rf"[0-9a-f]{{32}}{ending}", self.etag):
            return Expected("md5", self.etag.removesuffix(ending), self.parts, self.guessed)
        return None


def _usual_part(size: int, count: int) -> int:
    """Give the size of a part that S3's clients are most likely to have chosen."""
    fewest, most = -(-size // count), (size - 1) // (count - 1)
    for mebibytes in USUAL_PARTS:
        if fewest <= mebibytes * MEBIBYTE <= most:
            return mebibytes * MEBIBYTE
    return -(-fewest // MEBIBYTE) * MEBIBYTE


def _hexadecimal(value: str) -> str:
    try:
        return base64.b64decode(value, validate=True).hex()
    except ValueError:
        return value  # Damaged on its way: nothing will agree with it.


class Tally:
    """Adds up an object's bytes, given in order."""

    def __init__(self, expected: Expected | None) -> None:
        """Get ready to compare with `expected`."""
        self._expected = expected
        self._of_parts = expected is not None and bool(expected.parts)
        # What sums up parts says nothing of a file in which nobody knows them.
        self._algorithm = "sha256" if expected is None or expected.parts else expected.algorithm
        self._whole = _digest(self._algorithm)
        self._part: Any = _digest(expected.algorithm) if expected else None
        self._sums: list[bytes] = []
        self._left = expected.parts[0] if expected and expected.parts else 0

    def add(self, data: bytes | memoryview) -> None:
        """Add the next bytes."""
        self._whole.update(data)
        view = memoryview(data) if self._of_parts else memoryview(b"")
        while len(view):
            taken = view[: self._left]
            self._part.update(taken)
            self._left -= len(taken)
            view = view[len(taken) :]
            if not self._left and self._expected:
                self._sums.append(self._part.digest())
                self._part = _digest(self._expected.algorithm)
                self._left = self._expected.parts[min(len(self._sums), len(self._expected.parts) - 1)]

    @property
    def sum(self) -> str:
        """The sum of all bytes: `algorithm:hexadecimal`."""
        return f"{self._algorithm}:{self._whole.digest().hex()}"

    @property
    def agrees(self) -> bool:
        """Tell whether the bytes are those that the store speaks of, as far as it does."""
        if self._expected is None:
            return True
        if not self._of_parts:
            return self._whole.digest().hex() == self._expected.value
        total = _digest(self._expected.algorithm)
        total.update(b"".join(self._sums))
        return total.digest().hex() == self._expected.value


COMBINED = ("crc64nvme", "crc32c", "crc32")
"""Sums of a whole that those of pieces, in any order, add up to."""


class Pieces(Tally):
    """A tally of pieces that come in any order, for the algorithms in `COMBINED`."""

    def __init__(self, expected: Expected) -> None:
        """Get ready to compare with `expected`."""
        super().__init__(expected)
        self._found: dict[int, tuple[bytes, int]] = {}

    def add_at(self, start: int, data: memoryview) -> None:
        """Add a piece, by its place in the object."""
        digest = _digest(self._algorithm)
        digest.update(data)
        self._found[start] = digest.digest(), len(data)

    def combine(self) -> None:
        """Add all pieces up."""
        from awscrt import checksums

        total = 0
        for _, (sum_, size) in sorted(self._found.items()):
            total = getattr(checksums, f"combine_{self._algorithm}")(total, int.from_bytes(sum_, "big"), size)
        self._whole.value = total


def sum_of(path: Path, algorithm: str) -> str:
    """Give a file's sum, as `Tally.sum` does."""
    tally = Tally(None if algorithm == "sha256" else Expected(algorithm, ""))
    with path.open("rb") as file:
        while block := file.read(MEBIBYTE):
            tally.add(block)
    return tally.sum
