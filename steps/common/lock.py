"""One step at a time writes to a folder."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from steps.common.errors import StepError, TemporaryError
from trainer import lock
from trainer.errors import PassingError, TrainerError


@contextmanager
def only_writer(folder: Path, step: str, file: str) -> Iterator[None]:
    """Hold the lock of a folder: `trainer.lock.only_writer`.

    Raises:
        TemporaryError: another process holds it.
        StepError: the folder is a file.
    """
    with ExitStack() as stack:
        try:
            stack.enter_context(lock.only_writer(folder, step, file))
        except TrainerError as error:
            raise refusal(error) from None
        yield


def refusal(error: TrainerError) -> StepError:
    """Give what a step says where the trainer refuses: the same line, with the exit status for it."""
    return (TemporaryError if isinstance(error, PassingError) else StepError)(str(error))
