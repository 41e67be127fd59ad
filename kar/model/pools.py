"""The examples as pools: what a training loops over, whether all examples are resident or come part by part."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from kar.model.batches import Kind, TrainingData


@dataclass(frozen=True)
class Pool:
    """Examples that are in memory together.

    Args:
        data, kinds: the examples, and the arm's knowledge joined to them.
        rows: int64, on the device: those of `data` that are meant, in file order.
    """

    data: TrainingData
    kinds: Sequence[Kind]
    rows: Tensor


class Pools(Protocol):
    """All examples of a training."""

    def count(self, split: str) -> int:
        """Examples of a split."""

    def pools(self, split: str, draw: torch.Generator | None = None) -> Iterator[Pool]:
        """Every example of a split once.

        Args:
            draw: decides the order of the pools, and which examples share one; None: all in file order.
        """


@dataclass(frozen=True)
class Resident:
    """All examples in memory: one pool."""

    data: TrainingData
    kinds: Sequence[Kind]

    def count(self, split: str) -> int:
        return len(self.data.split_rows[split])

    def pools(self, split: str, draw: torch.Generator | None = None) -> Iterator[Pool]:
        yield Pool(self.data, self.kinds, torch.from_numpy(self.data.split_rows[split]).to(self.data.device))
