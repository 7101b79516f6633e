"""Where to compute, and with how many threads."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from trainer.errors import TrainerError


def pick_device(name: str, local_rank: int = 0) -> torch.device:
    """The device of a name; "auto" takes the first of CUDA, MPS and the CPU that is there.

    Args:
        name: as in `TrainConfig.device`.
        local_rank: which of this machine's processes asks; each has a GPU of its own.

    Raises:
        TrainerError: the device is not on this machine.
    """
    if name == "auto":
        if not torch.cuda.is_available():
            return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
        name = "cuda"
    if name == "cuda":
        name = f"cuda:{local_rank}"
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise TrainerError(f"device '{name}' is not on this machine; set device to auto or cpu")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise TrainerError(f"device '{name}' is not on this machine; set device to auto or cpu")
    return device


def limit_threads(processes: int = 1) -> int:
    """Keeps torch within this process's part of the container's CPU share and returns the number of threads.

    torch counts the cores of the node; in a pod that may use two of them, a thread for every core makes
    each wait for the others.
    """
    allowed = max(1, cpu_limit() // processes)
    if allowed < torch.get_num_threads():
        torch.set_num_threads(allowed)
    return torch.get_num_threads()


def cpu_limit() -> int:
    """Cores that this process may use: those of its affinity, and no more than the container's limit."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _cgroup_cpus()
    return allowed if quota is None else min(allowed, max(1, round(quota)))


def _cgroup_cpus(root: Path = Path("/sys/fs/cgroup")) -> float | None:
    """The CPU limit of this container in cores (cgroup version 2, then 1); None without a limit."""
    try:
        quota, period = (root / "cpu.max").read_text().split()
    except (OSError, ValueError):
        try:
            quota = (root / "cpu/cpu.cfs_quota_us").read_text().strip()
            period = (root / "cpu/cpu.cfs_period_us").read_text().strip()
        except OSError:
            return None
    return int(quota) / int(period) if quota.isdigit() else None
