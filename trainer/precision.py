"""The arithmetic of the network: single, or half precision where the device has it."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch

from trainer.config import Precision
from trainer.errors import TrainerError

_HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}


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
