"""Personalized PageRank of all items by one inverse: (1 - aS)⁻¹ with S = D^-½ Q D^½, symmetric, eigenvalues in 0 to 1.

1 - aS is well conditioned (at most 1 / (1 - a): 3.6 at a restart of 0.15), so that Cholesky in double precision is exact to some 1e-15.
It lies in LAPACK's rectangular full packed format, n (n + 1) / 2 doubles that BLAS-3 works on in place: 2.9 GB for 27,000 items.

Shape suffixes: I items · U users · B items of a block · N items made an even number · K half of N
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import lapack

from kar.graph.bipartite import Bipartite
from kar.graph.ranking import best

_BLOCK = 256

Found = tuple[slice, NDArray[np.int64], NDArray[np.floating[Any]]]


def matrix_bytes(items: int) -> int:
    """What the packed matrix takes."""
    return (items + 1) * (items + 2) * 4


def solve(
    graph: Bipartite, count: int, restart: float, discount: float, tolerance: float, threads: int, memory_bytes: int
) -> Iterator[Found]:
    """Blocks of items with their neighbours' codes and scores; the matrix must fit into `memory_bytes`."""
    packed = _inverse(graph, (1 - restart) ** 2, threads)
    root_I = np.sqrt(graph.degree_I)
    items = graph.item_count

    def find(block: slice) -> Found:
        score_BI = packed.rows(block.start, block.stop)[:, :items]
        score_BI *= restart * graph.degree_I ** (0.5 - discount)
        score_BI /= root_I[block, None]
        score_BI[np.arange(len(score_BI)), np.arange(block.start, block.stop)] = 0.0
        return block, *best(score_BI, count, tolerance)

    with ThreadPoolExecutor(threads) as pool:
        yield from pool.map(find, [slice(start, min(stop, items)) for start, stop in packed.blocks() if start < items])


class _Packed:
    """A symmetric matrix of even size N in LAPACK's format RFP, TRANSR = N, UPLO = L.

    One rectangle of N + 1 × K: below and on the diagonal of rows 1 … N lie the first K columns of the lower triangle; above it, rows
    0 … K - 1, lies the lower triangle of the rest, transposed.

    Source: Gustavson et al. (2010), Rectangular full packed format for Cholesky's algorithm, ACM TOMS 37 (2).
    """

    def __init__(self, size: int) -> None:
        self.half = size // 2
        self.rectangle = np.zeros((2 * self.half + 1, self.half), order="F")

    def blocks(self) -> Iterator[tuple[int, int]]:
        """Ranges of columns; none lies on both sides of the half."""
        for begin in (0, self.half):
            for start in range(begin, begin + self.half, _BLOCK):
                yield start, min(start + _BLOCK, begin + self.half)

    def put(self, start: int, stop: int, lower: NDArray[np.float64]) -> None:
        """Set columns start … stop from row `start` down: `lower` [N - start, stop - start]; above its diagonal it is not read."""
        width, half = stop - start, self.half
        at = np.tril_indices(width)
        if start < half:
            self.rectangle[1 + start : 1 + stop, start:stop][at] = lower[:width][at]
            self.rectangle[1 + stop :, start:stop] = lower[width:]
        else:
            first, last = start - half, stop - half
            self.rectangle[first:last, first:last][at[::-1]] = lower[:width][at]
            self.rectangle[first:last, last:] = lower[width:].T

    def rows(self, start: int, stop: int) -> NDArray[np.float64]:
        """Whole rows start … stop, [stop - start, N]."""
        width, half, of = stop - start, self.half, self.rectangle
        out = np.empty((width, 2 * half))
        if start < half:
            out[:, :start] = of[1 + start : 1 + stop, :start]
            square = np.tril(of[1 + start : 1 + stop, start:stop])
            out[:, stop:] = of[1 + stop :, start:stop].T
        else:
            first, last = start - half, stop - half
            out[:, :half] = of[1 + start : 1 + stop, :]
            out[:, half:start] = of[:first, first:last].T
            square = np.tril(of[first:last, first:last].T)
            out[:, stop:] = of[first:last, last:]
        out[:, start:stop] = square + np.tril(square, -1).T
        return out


def _inverse(graph: Bipartite, a: float, threads: int) -> _Packed:
    """(1 - aS)⁻¹; where the number of items is odd, one more that nothing joins."""
    items = graph.item_count
    packed = _Packed(items + items % 2)
    size = 2 * packed.half
    half_IU = graph.halves()
    half_UI = half_IU.T.tocsc()

    def fill(block: tuple[int, int]) -> None:
        start, stop = block
        lower = np.zeros((size - start, stop - start))
        real = min(stop, items)
        if start < items:
            lower[: items - start, : real - start] = (half_IU[start:] @ half_UI[:, start:real]).toarray()
        lower *= -a
        lower[np.arange(stop - start), np.arange(stop - start)] += 1.0
        packed.put(start, stop, lower)

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(fill, packed.blocks()))
    flat = packed.rectangle.reshape(-1, order="F")  # a view: LAPACK writes into it
    for name, factor in (("pftrf", lapack.dpftrf), ("pftri", lapack.dpftri)):
        made, info = factor(size, flat, transr="N", uplo="L", overwrite_a=1)
        if info or not np.shares_memory(made, packed.rectangle):
            raise RuntimeError(f"LAPACK's {name} ended with {info}, in place: {np.shares_memory(made, packed.rectangle)}")
    return packed
