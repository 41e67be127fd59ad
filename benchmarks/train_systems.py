"""One system trains one model on the drawn examples for a few seconds, in a process of its own.

    python -m benchmarks.train_systems '{"system": "kar", "backbone": "din", "folder": "…", …}'      (see `Task`)

prints one JSON line: `rows_per_s` and `rows_per_cpu_s` (of processor time: what a core of its own would do), one figure per window; or `missing`, the package that this interpreter does not hold. Making and
loading the examples, building the model and the first steps are not in the figures. With `side_by_side` > 1 so many processes begin
their windows together.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.child import main

if TYPE_CHECKING:
    import numpy as np

Advance = Callable[[], int]
"""Trains a little further; returns how many rows that took."""
EMBEDDING, MLP, ATTENTION = 32, (200, 80), (32, 16)


@dataclass(frozen=True)
class Task:
    """What one run is to do.

    Args:
        system: kar, deepctr-torch or fuxictr.
        folder: where `write` put the drawn examples; side by side the processes meet there.
        knowledge: none, target or history: who carries vectors.
        width: of the knowledge vectors.
        base, batch, block_rows, precision, compile: settings of [adaptor].
        threads: of torch, in this process.
        seconds: of each of `windows`.
    """

    system: str
    backbone: str
    folder: str
    base: str = "thin"
    knowledge: str = "none"
    width: int = 768
    batch: int = 512
    block_rows: int = 1
    precision: str = "float32"
    compile: bool = False
    threads: int = 1
    side_by_side: int = 1
    seconds: float = 5.0
    windows: int = 3


def run(task: Task) -> dict[str, object]:
    """Train with the task's system. Raises ImportError where the system's package is missing."""
    import torch

    torch.set_num_threads(task.threads)
    torch.manual_seed(1)
    if task.system == "kar":
        from benchmarks import train_kar

        advance, figures = train_kar.start(task)
    else:
        from benchmarks import train_peers

        advance, figures = train_peers.start(task), {}
    windows = list(_windows(advance, task))
    return {"rows_per_s": [of_clock for of_clock, _ in windows], "rows_per_cpu_s": [of_cpu for _, of_cpu in windows], **figures}


def _windows(advance: Advance, task: Task) -> Iterator[tuple[float, float]]:
    """Each window's rows/s and rows per second of processor time, after a third of a window to warm up in."""
    _speed(advance, task.seconds / 3)
    if task.side_by_side > 1:
        _meet(Path(task.folder), task.side_by_side)
    for _ in range(task.windows):
        yield _speed(advance, task.seconds)


def _speed(advance: Advance, seconds: float) -> tuple[float, float]:
    rows, started, cpu_from = 0, time.perf_counter(), time.process_time()
    while (passed := time.perf_counter() - started) < seconds or not rows:
        rows += advance()
    return rows / passed, rows / (time.process_time() - cpu_from)


def _meet(folder: Path, count: int) -> None:
    """Wait until so many processes are here."""
    (folder / f"here-{time.time_ns()}").touch()
    while len(list(folder.glob("here-*"))) < count:
        time.sleep(0.01)


def columns(folder: Path) -> dict[str, np.ndarray]:
    """What `train_kar.write` put down for the peers: item, genre, label [rows], history_item, history_genre, history_rating [rows, 5]; 0 pads."""
    import numpy as np

    with np.load(folder / "columns.npz") as held:
        return {name: held[name] for name in held.files}


if __name__ == "__main__":
    main(Task, run)
