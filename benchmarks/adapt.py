"""Vectors a second through a trained adaptor, all subjects of a kind one after another, beside what the arithmetic alone allows.

384-d vectors, seven experts of [128, 32], as a MiniLM scenario has. The floor is the adaptor's multiplications at the speed of one
large product of the same precision on the same threads, measured in the same minute.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import torch

from benchmarks.table import Row, median_row, text
from kar.model.adaptor import Adaptor
from kar.model.scoring import score

WIDTH, HIDDEN, ADAPTED, SHARED, OWN = 384, 128, 32, 2, 5
FLOP = 2 * (SHARED + OWN) * (WIDTH * HIDDEN + HIDDEN * ADAPTED + WIDTH)
VIEW = "item.facts"


def rows(subjects: int = 65_536, repetitions: int = 5, threads: int = 2) -> Iterator[Row]:
    """One row per precision; its ratio is to the floor.

    Args:
        threads: 1: seconds of the processor, which neighbours do not disturb; more: seconds of the clock.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    torch.manual_seed(1)
    adaptor = Adaptor((VIEW,), WIDTH, ADAPTED, HIDDEN, SHARED, OWN).eval()
    vectors = np.random.default_rng(1).normal(size=(subjects, WIDTH)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    clock = time.thread_time if threads == 1 else time.perf_counter
    for precision in ("float32", "bfloat16"):
        floor, speeds = [], []
        for _ in range(repetitions):
            floor.append(_gflops(getattr(torch, precision), clock) * 1e9 / FLOP)
            speeds.append(subjects / _seconds(partial(score, adaptor, VIEW, vectors, precision), clock))
        what = f"subjects adapted, {WIDTH}-d, {precision}, {threads} threads (ratio to the floor)"
        yield median_row(what, "the floor", floor, "vectors/s")
        yield median_row(what, "kar", speeds, "vectors/s", floor)
    torch.set_num_threads(before)


def _gflops(dtype: torch.dtype, clock: Callable[[], float]) -> float:
    """Of one large product."""
    side = 2048
    square = torch.randn(side, side).to(dtype)  # not ones: a processor multiplies those faster
    with torch.inference_mode():
        return 2 * side**3 / _seconds(lambda: square @ square, clock) / 1e9


def _seconds(work: Callable[[], object], clock: Callable[[], float]) -> float:
    started = clock()
    work()
    return clock() - started


if __name__ == "__main__":
    sys.stdout.write(text(rows(threads=int(sys.argv[1]) if len(sys.argv) > 1 else 2)) + "\n")
