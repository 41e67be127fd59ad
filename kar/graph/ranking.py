"""The best of each row, ties by code.

Shape suffixes: B rows of a block · I items · T neighbours · C candidates, all rows' one after another
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

FLOOR = 1e-12
"""A score below it is none: it is less than the rounding of what it was computed from."""


def best(
    score_BI: NDArray[np.floating[Any]], count: int, tolerance: float, floor: float = FLOOR
) -> tuple[NDArray[np.int64], NDArray[np.floating[Any]]]:
    """Each row's `count` highest scores above the floor, best first.

    Args:
        score_BI: what must not be chosen (the row's own item) holds 0 or less.
        tolerance: a score that lies below the next higher one by less than this share of it is level with it; the smaller code comes first.

    Returns:
        Codes [B, T], -1 where there are fewer, and their scores [B, T], 0 there.
    """
    rows, items = score_BI.shape
    item_BT, best_BT = np.full((rows, count), -1, np.int64), np.zeros((rows, count), score_BI.dtype)
    kept = min(count, items)
    least_B = np.partition(score_BI, items - kept, axis=1)[:, items - kept]
    row_C, item_C = np.nonzero(score_BI >= np.maximum(least_B * (1 - 2 * tolerance), floor)[:, None])
    score_C = score_BI[row_C, item_C]
    order = np.lexsort((-score_C, row_C))
    row_C, item_C, score_C = row_C[order], item_C[order], score_C[order]
    falls_C = np.ones(len(row_C), bool)
    falls_C[1:] = (row_C[1:] != row_C[:-1]) | (score_C[1:] < score_C[:-1] * (1 - tolerance))
    order = np.lexsort((item_C, np.cumsum(falls_C)))  # the levels follow the rows
    row_C, item_C, score_C = row_C[order], item_C[order], score_C[order]
    place_C = np.arange(len(row_C)) - np.searchsorted(row_C, row_C)
    is_kept_C = place_C < count
    item_BT[row_C[is_kept_C], place_C[is_kept_C]] = item_C[is_kept_C]
    best_BT[row_C[is_kept_C], place_C[is_kept_C]] = score_C[is_kept_C]
    return item_BT, best_BT
