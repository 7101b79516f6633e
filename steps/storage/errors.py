"""What a store's refusal becomes: one line that names the bucket."""

import re

from obstore.exceptions import BaseError, PermissionDeniedError, UnauthenticatedError

from steps.common.errors import StepError, TemporaryError


class NotAllowedError(StepError):
    """The store knows the credentials, and they may not do that."""


class NotThereError(TemporaryError):
    """There is no object at the key; where one was listed, it vanished."""


class ChangedError(TemporaryError):
    """The object is no longer the one that was asked for."""


class in_words:  # noqa: N801 - used as a function
    """Turn obstore's exceptions into one line that names the bucket."""

    def __init__(self, address: str) -> None:
        self._address = address

    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, PermissionDeniedError | UnauthenticatedError):
            raise NotAllowedError(
                f"{self._address} does not let these credentials do that: {one_line(error)}"
            ) from None
        # A key that cannot be written as a path reaches us as a bare ValueError.
        if re.search("invalid path|parse path", str(error)) and isinstance(error, BaseError | ValueError):
            raise StepError(f"{self._address} failed: {one_line(error)}: rename it") from None
        if isinstance(error, FileNotFoundError):
            raise NotThereError(f"{self._address} failed: {one_line(error)}") from None
        if isinstance(error, BaseError):
            raise TemporaryError(f"{self._address} failed: {one_line(error)}") from None


def one_line(error: BaseException) -> str:
    # obstore appends its internal state from the second line on.
    text = str(error).strip()
    return " ".join(text.split("\n\nDebug source:")[0].split())[:400] or type(error).__name__
