"""Neighbours of items by what the same users engage with: Personalized PageRank over the bipartite graph of users and items.

A walker starts at an item, goes to one of its users, on to one of that user's items, and so forth; before each step it returns to the
start with probability `restart`. An item's score is the share of time that the walker spends there. Two steps lead from items to items,
so on items alone, with a = (1 - restart)², D the items' degrees and Q = Aᵀ·U⁻¹·A·D⁻¹ (A: users × items, U: the users' degrees):

    scores of the walk from item i = restart · (1 + aQ + a²Q² + …) e_i

Two ways to the same scores, both exact to the tolerance; which is cheaper is reckoned from the graph's shape: `kar.graph.solve`
(one symmetric positive definite matrix is inverted) and `kar.graph.walk` (the sum, blocks of items at once, for catalogues whose matrix
does not fit).

Shape suffixes: E events or edges · I items · T neighbours
Source: Page et al. (1998); for neighbours in prompts LLM-Rec, Lyu et al. (2024), who report T = 3 and 0.85 = 1 - restart.
"""

from __future__ import annotations

import os

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from kar.graph.bipartite import Bipartite
from kar.graph.ranking import Neighbours
from kar.graph.solve import matrix_bytes, solve
from kar.graph.walk import walk

__all__ = ["Neighbours", "neighbours"]

_DENSE_PER_S, _GRAM_PER_S, _WALK_PER_S = 30e9, 0.4e9, 4e9
"""Multiply-adds of a core in a second: BLAS on doubles, SciPy's sparse product, sparse times dense in float32 (measured: LOG.md)."""

_WALK_STEPS = 10
"""Steps that a walk takes on graphs of ratings until it has mixed (measured on MovieLens-1M)."""


def neighbours(
    user_E: NDArray[np.integer],
    item_E: NDArray[np.integer],
    user_count: int,
    item_count: int,
    *,
    count: int,
    restart: float = 0.15,
    discount: float = 0.0,
    tolerance: float = 5e-5,
    threads: int | None = None,
    memory_bytes: int = 5_000_000_000,
) -> Neighbours:
    """Each item's `count` best neighbours by Personalized PageRank from that item.

    A discount of 0 is the paper's plain score. Popular items have most of it: the longer a walk, the more its end depends on degree
    alone. On MovieLens-1M ten popular films are 93 % of all films' three best, whatever film one starts from (46 % at a restart of 0.8).
    A discount divides by a power of the neighbour's degree: at 0.8 the ten most frequent have 6 % and the neighbours of Toy Story are Toy
    Story 2, Groundhog Day and Babe; at 1, which is lift, films that one user met win by chance (LOG.md).

    The same events give the same answer on one machine. The item itself is never its neighbour, parts of the graph that no path joins
    never mix, and an item without an event has no neighbours.

    Args:
        user_E: 0-based code of each event's user.
        item_E: 0-based code of each event's item. An item that a user met repeatedly counts once: the score asks who met what, and
            a weight by repetition would let one user's habit (coffee, weekly) outvote a hundred users.
        user_count: codes lie below it.
        item_count: codes lie below it; the rows of the answer.
        count: neighbours wanted, at least 1.
        restart: probability of going back to the start before each step, between 0 and 1.
        discount: scores are divided by the neighbour's number of users to this power, 0 to 1; they are ranked and given so.
        tolerance: largest error of a score, as a share of the item's best neighbour's; scores that differ by a smaller share of
            themselves are ties, and the smaller code comes first.
        threads: that share the work; None: the machine's cores. Matrix factors use BLAS's own.
        memory_bytes: to stay within, roughly; what the events themselves take comes on top.

    Raises:
        ValueError: a code is out of range, the arrays' lengths differ, or an argument is.
    """
    _check(user_E, item_E, user_count, item_count, count, restart, discount, tolerance)
    found = Neighbours.none(item_count, count)
    pairs_IU = sp.coo_matrix((np.ones(len(item_E)), (item_E, user_E)), shape=(item_count, user_count)).tocsr()
    pairs_IU.data[:] = 1.0  # repeated pairs were added up
    degree_U = np.bincount(pairs_IU.indices, minlength=user_count).astype(np.float64)
    met_I = np.flatnonzero(pairs_IU @ degree_U > np.diff(pairs_IU.indptr))  # items that share a user with another
    if not len(met_I):
        return found
    graph = Bipartite.of(pairs_IU[met_I])
    threads = threads or os.cpu_count() or 1
    find = solve if _solves(graph, memory_bytes) else walk
    for block, item_BT, score_BT in find(graph, count, restart, discount, tolerance, threads, memory_bytes):
        found.item_IT[met_I[block]] = np.where(item_BT < 0, -1, met_I[item_BT])
        found.score_IT[met_I[block]] = score_BT
    return found


def _solves(graph: Bipartite, memory_bytes: int) -> bool:
    """Whether the matrix fits and inverting it is reckoned to be cheaper than walking."""
    items = graph.item_count
    solve_s = items**3 / 2 / _DENSE_PER_S + float(np.square(graph.degree_U).sum()) / 2 / _GRAM_PER_S
    walk_s = 2.0 * graph.edge_count * items * _WALK_STEPS / _WALK_PER_S
    return matrix_bytes(items) <= 0.8 * memory_bytes and solve_s <= walk_s


def _check(
    user_E: NDArray[np.integer],
    item_E: NDArray[np.integer],
    user_count: int,
    item_count: int,
    count: int,
    restart: float,
    discount: float,
    tolerance: float,
) -> None:
    if user_E.shape != item_E.shape or user_E.ndim != 1:
        raise ValueError(f"users {user_E.shape} and items {item_E.shape}: two lists of one length are wanted")
    for name, code_E, below in (("user", user_E, user_count), ("item", item_E, item_count)):
        if len(code_E) and not 0 <= int(code_E.min()) <= int(code_E.max()) < below:
            raise ValueError(f"{name} codes from {code_E.min()} to {code_E.max()}: 0 to {below - 1} are wanted")
    if count < 1 or not 0 < restart < 1 or not 0 < tolerance < 1 or not 0 <= discount <= 1:
        given = f"count {count}, restart {restart}, discount {discount}, tolerance {tolerance}"
        raise ValueError(f"{given}: at least 1, and three numbers between 0 and 1, are wanted")
