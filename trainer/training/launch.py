"""Several processes for one training run: `torchrun`, with the exit status of the process that failed."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch.distributed.elastic.multiprocessing import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.run import parse_args, run

log = logging.getLogger(__name__)

SECONDS_TO_STOP = 300
"""For the checkpoint after SIGTERM. Kubernetes' own grace period is usually the shorter one."""


def launched() -> bool:
    """Whether this process is one of several that a launcher started."""
    return "RANK" in os.environ


def processes_here(wanted: int | None) -> int:
    """Processes to start on this machine: as many as `wanted`; for None one a GPU, and one where there is none."""
    return wanted or max(1, torch.cuda.device_count())


def nodes() -> int:
    """Machines that train together, as `torchrun` reads it from `PET_NNODES` (JobSet and TrainJob manifests set it)."""
    value = os.environ.get("PET_NNODES", "1")
    return int(value) if value.isdigit() else 1


def launch(module: str, arguments: Sequence[str], processes: int) -> int:
    """Run `python -m MODULE ARGUMENTS` in several processes that find each other, as `torchrun` does.

    Between machines, the variables of `torchrun` say who is who: PET_NNODES, PET_NODE_RANK, PET_MASTER_ADDR and
    PET_MASTER_PORT.

    Args:
        module: what each process runs.
        arguments: its command line.
        processes: how many on this machine.

    Returns:
        0 if all ended well; else the exit status of the first that did not, which `torchrun` itself turns into 1: a
        refused setting (2) would look like a failure that another try may cure. 128 + n after signal n.
    """
    os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", str(SECONDS_TO_STOP))
    # Its banner is about a default that each process of ours sets by itself, from the container's limit.
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // processes)))
    with TemporaryDirectory(prefix="processes-") as logs:
        own = ["--nproc-per-node", str(processes)]
        # Only the first process of each machine speaks; the others' words are shown if they fail.
        silent = ",".join(f"{rank}:3" for rank in range(1, processes))
        own += ["--log-dir", logs, *(["--redirects", silent] if silent else [])]
        own += [] if nodes() > 1 else ["--standalone"]
        try:
            run(parse_args([*own, "-m", module, *arguments]))
        except ChildFailedError as error:
            _, failure = error.get_first_failure()
            # A negative status is a process that was stopped because another had failed.
            if all(each.local_rank or each.exitcode < 0 for each in error.failures.values()):
                _show(Path(logs), failure.local_rank)
            return failure.exitcode if failure.exitcode > 0 else 128 - failure.exitcode
        except SignalException as error:
            return 128 + error.sigval
        except KeyboardInterrupt:
            return 128 + signal.SIGINT
    return 0


def _show(logs: Path, local_rank: int) -> None:
    """Log what a process said that was not shown while it ran."""
    for name in ("stdout.log", "stderr.log"):
        for path in sorted(logs.glob(f"*/attempt_*/{local_rank}/{name}")):
            log.error(path.read_text(errors="replace").rstrip())
