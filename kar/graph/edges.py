"""Edges between items whose vectors are near: who is nearest, which edges are mutual, and random edges of the same degrees as a control.

Cosines are exact up to `exact_most` items: BLAS multiplies tiles of the matrix of all pairs, which never exists as a whole, and of each
tile only what beats a row's best so far is looked at. Above, an index finds them (`kar.graph.index`), at a recall that is measured.

Shape suffixes: N items · D width of a vector · T neighbours · E edges · R rows of a block · C candidates
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kar.errors import ModelError
from kar.graph.index import indexed
from kar.graph.ranking import Neighbours, best_of

_SPARE = 8
"""Candidates beyond those wanted: cosines of single precision find them, cosines of double precision order them."""

_LEVEL = 1e-6
"""Cosines that differ by a smaller share are ties: what vectors in float32 do not tell apart."""

_PANEL = 8192
"""Columns of a tile."""

_FEW = 4096
"""Columns whose best say from where on a first tile is looked at."""


@dataclass(frozen=True)
class Edges:
    """Undirected edges, each once; sorted by `low_E`, then `high_E`.

    Args:
        low_E: int32 code of the end with the smaller code.
        high_E: int32 code of the other end.
        score_E: float32.
    """

    low_E: NDArray[np.int32]
    high_E: NDArray[np.int32]
    score_E: NDArray[np.float32]

    def degrees(self, items: int) -> NDArray[np.int64]:
        """How many edges each item has."""
        return np.bincount(self.low_E, minlength=items) + np.bincount(self.high_E, minlength=items)


def nearest(
    vector_ND: NDArray[np.floating],
    *,
    count: int,
    has_vector_N: NDArray[np.bool_] | None = None,
    block_rows: int = 1024,
    exact_most: int = 200_000,
    probes: int = 64,
) -> Neighbours:
    """Each item's `count` nearest others by cosine; equal ones by code.

    Held at once beside a copy of the vectors: one tile, block_rows × 8,192 floats, and the answer.

    Args:
        has_vector_N: False: the vector is missing; no edge begins or ends there. A vector of zeros has no direction and counts as missing.
        block_rows: rows of a tile.
        exact_most: items up to which every pair is looked at.
        probes: cells of the index that are searched beyond that.

    Raises:
        ModelError: a vector holds NaN or infinity; or an index is needed and not installed.
    """
    unit_ND, has_N = _units(vector_ND, has_vector_N)
    code_N = np.flatnonzero(has_N)
    unit_ND = unit_ND[code_N]
    found = Neighbours.none(len(has_N), count)
    if len(code_N) < 2:
        return found
    wanted = min(count + _SPARE, len(code_N) - 1)
    index = indexed(unit_ND, probes) if len(code_N) > exact_most else None
    for start in range(0, len(code_N), block_rows):
        rows = slice(start, min(start + block_rows, len(code_N)))
        item_RC = _exact(unit_ND, rows, wanted) if index is None else index(rows, wanted)
        item_RT, score_RT = _ordered(unit_ND, rows, item_RC, count)
        found.item_IT[code_N[rows]] = np.where(item_RT < 0, -1, code_N[item_RT])
        found.score_IT[code_N[rows]] = score_RT
    return found


def _units(vector_ND: NDArray[np.floating], has_vector_N: NDArray[np.bool_] | None) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """The vectors at length 1, in float32, and which there are."""
    has_N = np.ones(len(vector_ND), bool) if has_vector_N is None else has_vector_N.copy()
    vector_ND = np.where(has_N[:, None], vector_ND, 0.0).astype(np.float32)
    if not np.isfinite(vector_ND).all():
        bad = np.flatnonzero(~np.isfinite(vector_ND).all(axis=1))
        raise ModelError(f"{len(bad)} of {len(has_N)} vectors hold NaN or infinity, the first is number {bad[0]}", "make the vectors again")
    vector_ND /= np.maximum(np.abs(vector_ND).max(axis=1, initial=0.0), np.finfo(np.float32).tiny)[:, None]  # no square overflows
    length_N = np.linalg.norm(vector_ND, axis=1)
    return vector_ND / np.maximum(length_N, 1e-6)[:, None], has_N & (length_N > 0)


def _exact(unit_ND: NDArray[np.float32], rows: slice, wanted: int) -> NDArray[np.int64]:
    """Codes [R, wanted] of the nearest others of these rows."""
    own = unit_ND[rows]
    item_RC = np.full((len(own), wanted), -1, np.int64)
    score_RC = np.full((len(own), wanted), -np.inf, np.float32)
    for start in range(0, len(unit_ND), _PANEL):
        stop = min(start + _PANEL, len(unit_ND))
        tile_RP = own @ unit_ND[start:stop].T
        self_N = np.arange(max(start, rows.start), min(stop, rows.stop))
        tile_RP[self_N - rows.start, self_N - start] = -np.inf
        least_R = score_RC.min(axis=1)
        if start == 0 and stop > wanted:  # nothing below the best of any few columns can be wanted
            few = min(stop, max(_FEW, 2 * wanted))
            best_R = np.partition(tile_RP[:, :few], few - wanted, axis=1)[:, few - wanted]
            least_R = np.nextafter(best_R, np.float32(-np.inf))
        row_C, column_C = np.divmod(np.flatnonzero(tile_RP > least_R[:, None]), stop - start)
        held_R, held_C = np.nonzero(item_RC >= 0)
        item_RC, score_RC = best_of(
            np.concatenate([held_R, row_C]),
            np.concatenate([item_RC[held_R, held_C], column_C + start]),
            np.concatenate([score_RC[held_R, held_C], tile_RP[row_C, column_C]]),
            len(own),
            wanted,
            0.0,
        )
        score_RC = np.where(item_RC < 0, -np.inf, score_RC).astype(np.float32)
    return item_RC


def _ordered(
    unit_ND: NDArray[np.float32], rows: slice, item_RC: NDArray[np.int64], count: int
) -> tuple[NDArray[np.int64], NDArray[np.floating]]:
    """The best of the candidates by cosines in double precision."""
    row_C, place_C = np.nonzero(item_RC >= 0)
    item_C = item_RC[row_C, place_C]
    score_C = np.empty(len(item_C))
    for start in range(0, len(item_C), _PANEL):
        part = slice(start, start + _PANEL)
        one_CD, other_CD = unit_ND[rows.start + row_C[part]].astype(np.float64), unit_ND[item_C[part]].astype(np.float64)
        score_C[part] = np.einsum("cd,cd->c", one_CD, other_CD)
    return best_of(row_C, item_C, score_C, len(item_RC), count, _LEVEL)


def mutual(near: Neighbours, *, least: float = -1.0) -> Edges:
    """The edges whose two ends are each among the other's neighbours.

    That thins the hubs which many vectors are near to and which are near to few themselves.

    Args:
        least: score from which an edge is kept.

    Source: mutual k-nearest neighbours, Brito et al. (1997).
    """
    items, count = near.item_IT.shape
    from_E = np.repeat(np.arange(items, dtype=np.int64), count)
    to_E, score_E = near.item_IT.reshape(-1).astype(np.int64), near.score_IT.reshape(-1)
    is_kept_E = (to_E >= 0) & (score_E >= least)
    from_E, to_E, score_E = from_E[is_kept_E], to_E[is_kept_E], score_E[is_kept_E]
    is_both_E = (from_E < to_E) & np.isin(from_E * items + to_E, to_E * items + from_E)
    return _edges(from_E[is_both_E], to_E[is_both_E], score_E[is_both_E])


def random_edges(edges: Edges, seed: int, *, rounds: int = 50) -> Edges:
    """Random edges in which every item has as many as before: the control for what degree alone explains.

    In each round the edges are paired at random and each pair (a, b), (c, d) becomes (a, d), (c, b) unless that would join an item to itself or
    repeat an edge. The scores are the same ones, dealt out anew.

    Args:
        rounds: after 50 an edge has been swapped some fifty times, where the degrees leave it a choice.

    Source: Maslov & Sneppen (2002): the configuration model by degree-preserving swaps.
    """
    random = np.random.default_rng(seed)
    low_E, high_E = edges.low_E.astype(np.int64), edges.high_E.astype(np.int64)
    size = int(high_E.max(initial=0)) + 1
    half = len(low_E) // 2
    for _ in range(rounds):
        order = random.permutation(len(low_E))
        one, two = order[:half], order[half : 2 * half]
        turned = random.random(half) < 0.5  # an edge has no direction: either of its ends may be given away
        a, b = low_E[one], high_E[one]
        c, d = np.where(turned, high_E[two], low_E[two]), np.where(turned, low_E[two], high_E[two])
        first, second = np.minimum(a, d) * size + np.maximum(a, d), np.minimum(c, b) * size + np.maximum(c, b)
        proposed, place, times = np.unique(np.concatenate([first, second]), return_inverse=True, return_counts=True)
        is_new = ((times == 1) & ~np.isin(proposed, low_E * size + high_E))[place]
        swaps = (a != d) & (c != b) & is_new[:half] & is_new[half:]
        for at, key in ((one[swaps], first[swaps]), (two[swaps], second[swaps])):
            low_E[at], high_E[at] = key // size, key % size
    return _edges(low_E, high_E, random.permutation(edges.score_E))


def _edges(low_E: NDArray[np.int64], high_E: NDArray[np.int64], score_E: NDArray[np.float32]) -> Edges:
    order = np.lexsort((high_E, low_E))
    return Edges(low_E[order].astype(np.int32), high_E[order].astype(np.int32), score_E[order].astype(np.float32))
