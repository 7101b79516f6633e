"""One writer a folder: whoever comes second is told who the first is."""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from trainer.errors import BusyError, TrainerError

_log = logging.getLogger("trainer")

_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL}


@contextlib.contextmanager
def only_writer(folder: Path, step: str, file: str) -> Iterator[None]:
    """Holds the lock of a folder, which is made where there is none.

    The lock is the kernel's (POSIX `fcntl`) on a file that stays: it ends with the process that holds it, however that
    ends, and the processes that this one forks have no part in it. On a volume that several machines share it holds
    where the file system passes such locks on, as NFSv4, CephFS and Lustre do; the lock of a machine that is lost then
    ends with its lease. Where the file system has no locks, a warning says so and the work goes on.

    Args:
        folder: what is written to.
        step: what writes, for the message to the second.
        file: the lock's file in the folder; steps that may write side by side have different ones.

    Raises:
        BusyError: another process holds it; the message names step, process, host and time.
        TrainerError: the folder is a file, or cannot be made.
    """
    import fcntl  # Not on Windows, where the command line says so.

    path = folder / file
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise TrainerError(f"{folder} is not a folder; give another one") from None
    except OSError as error:
        raise TrainerError(f"{folder} cannot be made ({error.strerror}); give another folder") from None
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise BusyError(
                    f"{folder} is in use: {_holder(descriptor)}; wait for its end or give another"
                ) from None
            _log.warning("WARNING: %s is on a file system without locks: let one process write there", folder)
        since = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())
        holder = {"step": step, "pid": os.getpid(), "host": socket.gethostname(), "since": since}
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(holder).encode(), 0)
        yield
    finally:
        os.close(descriptor)


def _holder(descriptor: int) -> str:
    try:
        holder = json.loads(os.pread(descriptor, 4096, 0))
        return "{step} writes there, process {pid} on {host} since {since}".format(**holder)
    except (OSError, ValueError, KeyError, TypeError):
        return "another process writes there"
