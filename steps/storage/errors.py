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
        # A key that cannot be written as a path reaches us as a bare ValueError.
        if re.search("invalid path|parse path", str(error)) and isinstance(error, BaseError | ValueError):
            raise StepError(f"{self._address} failed: {one_line(error)}: rename it") from None
        if not isinstance(error, BaseError | FileNotFoundError):
            return
        status, said = _answered(error)
        if isinstance(error, PermissionDeniedError | UnauthenticatedError) or status in (401, 403):
            raise NotAllowedError(
                f"{self._address} does not let these credentials do that ({said}): check them"
            ) from None
        if isinstance(error, FileNotFoundError) and "Container" not in said and "Bucket" not in said:
            raise NotThereError(f"{self._address} failed: {said}") from None
        if status == 404 or isinstance(error, FileNotFoundError):
            raise StepError(f"{self._address} does not exist ({said}): check its name") from None
        if 400 <= status < 500 and status not in (408, 409, 412, 429):
            raise StepError(f"{self._address} refuses ({said})") from None
        remedy = "run the step again later" if status else "check the network and the store's endpoint"
        raise TemporaryError(f"{self._address} failed ({said}): {remedy}") from None


def _answered(error: BaseException) -> tuple[int, str]:
    """The status of a server's answer, 0 where there is none, and what it says in few words."""
    text = one_line(error)
    status, code = re.search(r"status code: (\d{3})", text), re.search(r"<Code>(\w+)</Code>", text)
    if not status:
        return 0, text.rpartition(" - ")[2]
    return int(status[1]), " ".join(filter(None, [status[1], code and code[1]]))


def one_line(error: BaseException) -> str:
    # obstore appends its internal state from the second line on.
    text = str(error).strip()
    return " ".join(text.split("\n\nDebug source:")[0].split())[:400] or type(error).__name__
