"""The best of each row, ties by code.

Shape suffixes: B rows of a block · I items · T neighbours · C candidates, all rows' in any order
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

FLOOR = 1e-12
"""A score of a walk below it is none: it is less than the rounding of what it was computed from."""


@dataclass(frozen=True)
class Neighbours:
    """Each item's neighbours.

    Args:
        item_IT: int32 codes, best first; -1 where there are fewer.
        score_IT: float32, what they were ranked by; 0 where there is none.
    """

    item_IT: NDArray[np.int32]
    score_IT: NDArray[np.float32]

    @staticmethod
    def none(items: int, count: int) -> Neighbours:
        return Neighbours(np.full((items, count), -1, np.int32), np.zeros((items, count), np.float32))


Best = tuple[NDArray[np.int64], NDArray[np.floating[Any]]]


def best(score_BI: NDArray[np.floating[Any]], count: int, tolerance: float) -> Best:
    """Each row's `count` highest scores above the floor.

    Args:
        score_BI: what must not be chosen (the row's own item) holds 0 or less.
        tolerance: as for `best_of`.

    Returns:
        As `best_of`.
    """
    rows, items = score_BI.shape
    kept = min(count, items)
    least_B = np.partition(score_BI, items - kept, axis=1)[:, items - kept]
    row_C, item_C = np.nonzero(score_BI >= np.maximum(least_B * (1 - 2 * tolerance), FLOOR)[:, None])
    return best_of(row_C, item_C, score_BI[row_C, item_C], rows, count, tolerance)


def best_of(
    row_C: NDArray[np.integer], item_C: NDArray[np.integer], score_C: NDArray[np.floating[Any]], rows: int, count: int, tolerance: float
) -> Best:
    """Each row's `count` best candidates, best first.

    Args:
        tolerance: a score that lies below the row's next higher one by no more than this share of it is level with it; among level ones
            the smaller code comes first, so that rounding orders nothing.

    Returns:
        Codes [B, T], -1 where there are fewer, and their scores [B, T], 0 there.
    """
    item_BT, best_BT = np.full((rows, count), -1, np.int64), np.zeros((rows, count), score_C.dtype)
    order = np.lexsort((-score_C, row_C))
    row_C, item_C, score_C = row_C[order], item_C[order], score_C[order]
    falls_C = np.ones(len(row_C), bool)
    falls_C[1:] = (row_C[1:] != row_C[:-1]) | (score_C[:-1] - score_C[1:] > tolerance * np.abs(score_C[:-1]))
    order = np.lexsort((item_C, np.cumsum(falls_C)))  # the levels follow the rows
    row_C, item_C, score_C = row_C[order], item_C[order], score_C[order]
    place_C = np.arange(len(row_C)) - np.searchsorted(row_C, row_C)
    is_kept_C = place_C < count
    item_BT[row_C[is_kept_C], place_C[is_kept_C]] = item_C[is_kept_C]
    best_BT[row_C[is_kept_C], place_C[is_kept_C]] = score_C[is_kept_C]
    return item_BT, best_BT
