"""A training in a process of its own that kills itself, as nothing can be caught: `python -m tests.model.killed STATE EPOCH`."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from kar.model import arms
from kar.model.pools import Pool, Resident
from kar.model.train import Trained, train
from kar.settings import AdaptorSettings
from tests.model.conftest import make_world, small_settings


@dataclass(frozen=True)
class Mortal(Resident):
    """Resident examples; in the middle of an epoch the process is killed."""

    last_epoch: int
    passes: list[int]

    def pools(self, split: str, draw: torch.Generator | None = None) -> Iterator[Pool]:
        for pool in super().pools(split, draw):
            if split == "train" and len(self.passes) == self.last_epoch:
                yield Pool(pool.data, pool.kinds, pool.rows[: len(pool.rows) // 2])
                os.kill(os.getpid(), signal.SIGKILL)
            if split == "train":
                self.passes.append(1)
            yield pool


def settings() -> AdaptorSettings:
    """With everything that draws: dropout, id dropout, blocks."""
    return small_settings(epochs=6, patience=6, dropout=0.2, item_id_dropout=0.3, block_rows=3, weight_decay=0.01)


def trained(state_path: Path | None, last_epoch: int | None = None) -> Trained:
    """A training of the small world; killed in the middle of epoch `last_epoch` (0-based)."""
    torch.set_num_threads(1)
    world, ours = make_world(), settings()
    data = world.load(ours)
    prepared = arms.prepare(world.knowledge_vector, world.example, ours)
    kinds = prepared.kinds("knowledge", data, 1)
    pools = None if last_epoch is None else Mortal(data, kinds, last_epoch, [])
    return train("din", data, kinds, prepared.width, ours, 1, "killed", pools=pools, state_path=state_path)


if __name__ == "__main__":
    trained(Path(sys.argv[1]), int(sys.argv[2]))
    sys.exit("nothing killed this process")
