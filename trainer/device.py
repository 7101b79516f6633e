"""Where to compute, with how many threads and in which precision."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import torch

from trainer.config import Precision
from trainer.errors import TrainerError

_HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}


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


@dataclass(frozen=True)
class Arithmetic:
    """A precision on a device."""

    name: str
    """fp32, bf16 or fp16."""
    device_type: str

    def autocast(self) -> AbstractContextManager[None]:
        """A context in which matrix products and convolutions run in that precision."""
        half = _HALF.get(self.name)
        return torch.autocast(self.device_type, dtype=half, enabled=half is not None)

    def scaler(self) -> torch.amp.GradScaler:
        """Keeps small gradients of fp16 from vanishing; idle for the others, whose exponents reach far enough."""
        return torch.amp.GradScaler(self.device_type, enabled=self.name == "fp16")


def pick_arithmetic(precision: Precision, device: torch.device) -> Arithmetic:
    """The arithmetic of a name; "auto" is bf16 on a GPU that has it, fp16 on an older one, fp32 elsewhere.

    A CPU stays at fp32 unless asked: half precision is slower there but for few of them.

    Raises:
        TrainerError: the device cannot do it.
    """
    if precision == "auto":
        if device.type != "cuda":
            return Arithmetic("fp32", device.type)
        # Emulated bf16 counts as support in torch, and is slower than none: it begins with Ampere.
        return Arithmetic("bf16" if torch.cuda.get_device_capability(device) >= (8, 0) else "fp16", device.type)
    if precision == "fp16" and device.type == "cpu":
        raise TrainerError("precision 'fp16' needs a GPU; set precision to auto, fp32 or bf16")
    return Arithmetic(precision, device.type)
