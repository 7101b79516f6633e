"""One step at a time writes to a folder."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from steps.common.errors import StepError
from trainer import lock
from trainer.errors import TrainerError


@contextmanager
def only_writer(folder: Path, step: str, file: str) -> Iterator[None]:
    """Hold the lock of a folder: `trainer.lock.only_writer`.

    Raises:
        StepError: another process holds it, which may pass; or the folder is a file.
    """
    with ExitStack() as stack:
        try:
            stack.enter_context(lock.only_writer(folder, step, file))
        except TrainerError as error:
            raise StepError(str(error)) from None
        yield
