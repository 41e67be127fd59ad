"""One training by several processes: each takes its share of every batch's rows, all take the same step.

    torchrun --nproc-per-node 2 -m kar run adaptor --settings …

The simplest design that is honest: rank 0 is kar as it always is, with its locks, its tables and its log; the other ranks run no stage.
They wait until rank 0 tells them of a training (`kar.model.follow`), read the same tables, train in step, and end with rank 0. Trainings then
come one after the other, not side by side. What rank 0 does besides (hyper-parameter trials, judging) it does alone.

A batch's gradient is the sum over ranks of the gradients of their rows, each divided by the rows of the whole batch: what one process
would have computed, but for the order of the additions. A rank without rows in a small last batch adds nothing. Two things differ: dropout
draws on each rank for itself, and the alignment loss contrasts the rows of one rank's share. Predictions are shared out by rows as well.

gloo on the CPU, nccl between GPUs, each rank on the GPU of its local number; the tables must lie where every rank can read them.
"""

from __future__ import annotations

import datetime as dt
import json
import os
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

_PATIENCE = dt.timedelta(days=2)
"""Ranks wait for rank 0 while it runs other stages."""


@dataclass(frozen=True)
class Ranks:
    """This process among those that train together.

    Args:
        rank: 0 writes.
        count: of the processes; 1: there is no other, and nothing is sent.
    """

    rank: int = 0
    count: int = 1

    def share(self, rows: int) -> slice:
        """Which of a batch's rows are this rank's: neighbours, so that the users of a block stay together. Maybe none."""
        return slice(rows * self.rank // self.count, rows * (self.rank + 1) // self.count)

    def sum(self, value: Tensor) -> Tensor:
        """The sum over ranks, the same bits on each."""
        if self.count > 1:
            dist.all_reduce(value)
        return value

    def sum_gradients(self, module: nn.Module) -> None:
        """Replace every gradient by its sum over ranks; a parameter that none has a gradient of keeps none."""
        if self.count == 1:
            return
        trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
        gradients = [(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in trained]
        has = torch.tensor([float(p.grad is not None) for p in trained], device=gradients[0].device)
        *summed, has_any = torch.split(self.sum(torch.cat([*gradients, has])), [*(p.numel() for p in trained), len(trained)])
        for parameter, gradient, is_there in zip(trained, summed, has_any.tolist(), strict=True):
            parameter.grad = gradient.view_as(parameter) if is_there else None

    def seed(self, seed: int, epoch: int) -> None:
        """Seed torch's own generator for an epoch, differently on each rank, so that a resumed training draws as an unbroken one."""
        if self.count > 1:
            torch.manual_seed((seed * 1_000_003 + epoch) * self.count + self.rank)

    def tell(self, message: dict[str, Any] | None) -> None:
        """From rank 0 to the others: a training, or None: it is over."""
        if self.count == 1:
            return
        data = torch.frombuffer(bytearray(json.dumps(message).encode()), dtype=torch.uint8)
        dist.broadcast(torch.tensor([len(data)]), 0)
        dist.broadcast(data, 0)

    def hear(self) -> dict[str, Any] | None:
        """What rank 0 tells; waits for it."""
        length = torch.zeros(1, dtype=torch.int64)
        dist.broadcast(length, 0)
        data = torch.zeros(int(length), dtype=torch.uint8)
        dist.broadcast(data, 0)
        message: dict[str, Any] | None = json.loads(bytes(data.tolist()))
        return message


ALONE = Ranks()
_ours = ALONE


def current() -> Ranks:
    """The ranks that this process has joined; `ALONE` if none."""
    return _ours


def join() -> Ranks:
    """Meet the other processes at the address in the environment (RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT)."""
    global _ours
    backend = "gloo"
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
        backend = "cpu:gloo,cuda:nccl"
    dist.init_process_group(backend, init_method="env://", timeout=_PATIENCE)
    _ours = Ranks(dist.get_rank(), dist.get_world_size())
    return _ours


def leave() -> None:
    """Part from the others."""
    global _ours
    _ours = ALONE
    dist.destroy_process_group()
