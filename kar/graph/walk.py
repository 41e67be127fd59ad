"""Personalized PageRank of blocks of items by the sum itself, ended early where the walk has mixed.

With y_m the walk's distribution after m double steps, divided by the items' degrees, y_(m+1) = M y_m where M averages over an item's users
and their items (the graph is undirected: D⁻¹ Q^m e_i = M^m D⁻¹ e_i). What two steps differ by, Σ_j d_j |y_(m+1) - y_m|, never grows: it is mass
that is carried about. Hence, taking all further terms as equal to the last,

    Σ a^k y_k ≈ Σ_(k<m) a^k y_k + a^m / (1 - a) y_m     is wrong by at most     a^(m+1) / (1 - a)² · Σ_j d_j |y_(m+1) - y_m|

in all scores together, before the restart's factor: some ten steps on graphs of ratings where a^m alone would need thirty, with
nothing but sums of positive numbers, so that single precision keeps small scores too.

Shape suffixes: I items · U users · B items of a block (columns here, so that a row of a sparse product is contiguous)
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kar.graph.bipartite import Bipartite
from kar.graph.ranking import best

Found = tuple[slice, NDArray[np.int64], NDArray[np.floating[Any]]]

_SINGLE_FROM = 5e-5
"""Tolerance from which float32 is precise enough, at under half the time: on MovieLens-1M it is wrong by 1.1e-5."""

_BLOCK_MOST = 128
"""Columns of a block: more leave the processor's cache."""


def walk(
    graph: Bipartite,
    count: int,
    restart: float,
    discount: float,
    tolerance: float,
    threads: int,
    memory_bytes: int,
    starts: slice = slice(None),
) -> Iterator[Found]:
    """Blocks of items with their neighbours' codes and scores.

    Args:
        memory_bytes: the blocks' width follows from it.
        starts: the items asked about.
    """
    dtype = np.float32 if tolerance >= _SINGLE_FROM else np.float64
    over_users_IU, over_items_UI = graph.averages(dtype)
    items = graph.item_count
    held = (6 * items + len(graph.degree_U)) * np.dtype(dtype).itemsize * threads  # of each column
    width = int(min(_BLOCK_MOST, max(1, memory_bytes // held)))

    def find(block: slice) -> Found:
        score_IB = _scores(graph.degree_I, over_users_IU, over_items_UI, block, restart, discount, tolerance, dtype)
        return block, *best(np.ascontiguousarray(score_IB.T), count, tolerance)

    begin, end, _ = starts.indices(items)
    with ThreadPoolExecutor(threads) as pool:
        yield from pool.map(find, [slice(start, min(start + width, end)) for start in range(begin, end, width)])


def _scores(
    degree_I: NDArray[np.float64],
    over_users_IU: Any,
    over_items_UI: Any,
    block: slice,
    restart: float,
    discount: float,
    tolerance: float,
    dtype: Any,
) -> NDArray[np.floating[Any]]:
    """Scores [I, B] of the walks that start in the block, 0 at each one's start. It ends: no item is alone, and the weights fall."""
    a = (1 - restart) ** 2
    own_B, column_B = np.arange(block.start, block.stop), np.arange(block.stop - block.start)
    degree_I = degree_I.astype(dtype)
    factor_I1 = (restart * degree_I ** (1 - discount)).astype(dtype)[:, None]
    here_IB = np.zeros((len(degree_I), len(own_B)), dtype)
    here_IB[own_B, column_B] = 1 / degree_I[own_B]
    sum_IB, weight = np.zeros_like(here_IB), 1.0
    check_at, before = 2, None
    for step in itertools.count(1):
        next_IB = over_users_IU @ (over_items_UI @ here_IB)
        if step == check_at:
            # the sum as it stands, all further terms taken as equal to this one
            score_IB: NDArray[np.floating[Any]] = here_IB * dtype(weight / (1 - a))
            score_IB += sum_IB
            score_IB *= factor_I1
            score_IB[own_B, column_B] = 0.0
            wrong_B = degree_I @ np.abs(next_IB - here_IB) * (restart * weight * a / (1 - a) ** 2)
            excess = float((wrong_B / (tolerance * score_IB.max(axis=0))).max())
            if excess <= 1:
                return score_IB
            check_at, before = step + _steps_left(step, excess, before), (step, excess)
        here_IB *= dtype(weight)
        sum_IB += here_IB
        here_IB, weight = next_IB, weight * a
    raise AssertionError("a walk has no last step")


def _steps_left(step: int, excess: float, before: tuple[int, float] | None) -> int:
    """Steps to the next look, which costs as much as a sparse step of a small graph: three quarters of what the last ones promise."""
    if before is None or excess >= before[1]:
        return 1
    rate = math.log(before[1] / excess) / (step - before[0])
    return max(1, int(0.75 * math.log(excess) / rate))
