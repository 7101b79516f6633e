"""One process or many: what `torchrun` started, and the few things that the processes do together."""

from __future__ import annotations

import contextlib
import os
from contextlib import AbstractContextManager
from dataclasses import dataclass
from types import TracebackType
from typing import Any, cast

import torch
from torch import Tensor, distributed, nn

from trainer.errors import TrainerError


@dataclass
class Processes:
    """This process among those that train together; entered, they are connected, and alone there is nothing to do.

    `torchrun` says through the environment (RANK, WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE) who is who.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    on_this_machine: int = 1

    @classmethod
    def from_environment(cls) -> Processes:
        """What `torchrun` says; a single process without it.

        Raises:
            TrainerError: the variables contradict each other.
        """
        numbers = {}
        for name, default in (("RANK", "0"), ("WORLD_SIZE", "1"), ("LOCAL_RANK", "0"), ("LOCAL_WORLD_SIZE", "1")):
            value = os.environ.get(name, default)
            if not value.isdigit():
                raise TrainerError(f"environment variable {name} is '{value}', not a number; start with torchrun")
            numbers[name] = int(value)
        if numbers["RANK"] >= numbers["WORLD_SIZE"]:
            raise TrainerError(f"RANK {numbers['RANK']} is not below WORLD_SIZE {numbers['WORLD_SIZE']}; use torchrun")
        return cls(*numbers.values())

    @property
    def many(self) -> bool:
        """Whether there is anybody else."""
        return self.size > 1

    @property
    def is_main(self) -> bool:
        """Whether this is the process that writes files and talks."""
        return self.rank == 0

    def connect(self, device: torch.device) -> _Connection:
        """A context in which the processes can reach each other, from the device that each computes on."""
        return _Connection(self, device)

    def agree(self, model: nn.Module) -> None:
        """Gives every process the weights and statistics of the first, in place."""
        if self.many:
            for value in model.state_dict().values():
                distributed.broadcast(value, 0)

    def wrap(self, model: nn.Module, device: torch.device) -> nn.Module:
        """The model with gradients averaged over the processes; alone, the model itself."""
        if not self.many:
            return model
        device_ids = [device.index] if device.type == "cuda" else None
        return nn.parallel.DistributedDataParallel(model, device_ids=device_ids)

    def no_sync(self, model: nn.Module) -> AbstractContextManager[None]:
        """A context in which gradients of a wrapped model gather without being averaged yet."""
        if isinstance(model, nn.parallel.DistributedDataParallel):
            return cast(AbstractContextManager[None], model.no_sync())
        return contextlib.nullcontext()

    def sum(self, values: Tensor) -> Tensor:
        """The sum over the processes, in place."""
        if self.many:
            distributed.all_reduce(values)
        return values

    def mean(self, values: Tensor, device: torch.device) -> Tensor:
        """The sum over the processes divided by their number, on the device; alone, the values as they are."""
        return self.sum(values.to(device)) / self.size if self.many else values

    def least(self, value: int, device: torch.device) -> int:
        """The smallest of what each process has."""
        if not self.many:
            return value
        values = torch.tensor(value, device=device)
        distributed.all_reduce(values, distributed.ReduceOp.MIN)
        return int(values)

    def gather(self, value: Any) -> list[Any]:
        """What each process has, by rank: plain containers."""
        if not self.many:
            return [value]
        values: list[Any] = [None] * self.size
        distributed.all_gather_object(values, value)
        return values


class _Connection:
    def __init__(self, processes: Processes, device: torch.device) -> None:
        self.processes = processes
        self.device = device

    def __enter__(self) -> Processes:
        if self.processes.many:
            if self.device.type == "cuda":
                torch.cuda.set_device(self.device)
            distributed.init_process_group("nccl" if self.device.type == "cuda" else "gloo")
        return self.processes

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.processes.many and distributed.is_initialized():
            distributed.destroy_process_group()
