"""What is known of an object before its bytes are."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class RemoteObject:
    """One object: its complete key, its size in bytes, and its entity tag where the store gives one."""

    key: str
    size: int
    etag: str = ""

    @property
    def version(self) -> tuple[int, str]:
        """What tells a later object of the same key from this one."""
        return self.size, self.etag


@dataclass(frozen=True)
class Span:
    """Bytes of an object that is `remote`, which go to the beginning of `into`, if given; `of` whom they are for."""

    remote: RemoteObject
    start: int
    end: int
    of: Any
    into: memoryview | None = None


@dataclass(frozen=True)
class Sent:
    """One object as it was put: its key, size in bytes, SHA-256 sum, and its entity tag where the store gives one."""

    key: str
    size: int
    sha256: str
    etag: str = ""
