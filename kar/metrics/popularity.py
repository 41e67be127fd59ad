"""How popular the items are that a ranker puts first."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

Bool = NDArray[np.bool_]
HEAD = 0.1
"""Share of the items that are head items."""
TOP = 10
"""How many examples of a user count as put first."""


def head_items(count: ArrayLike, share: float = HEAD) -> Bool:
    """[items] whether each is among the `share` of the items with the most training examples, rounded up; ties at the edge are all in.

    Args:
        count: training examples per item. An item without any is never a head item.
    """
    n = np.asarray(count)
    if not len(n):
        return np.zeros(0, bool)
    edge = np.sort(n)[::-1][math.ceil(share * len(n)) - 1]
    return np.asarray((n >= edge) & (n > 0))


def head_share(user: ArrayLike, score: ArrayLike, is_head: ArrayLike, top: int = TOP) -> float:
    """Share of head items among each user's `top` examples with the highest scores (all, where there are fewer), mean over users.

    Args:
        user: per example; any integers.
        score: per example; of equal ones the earlier example is first.
        is_head: per example, whether its item is a head item.
    """
    owner, value, is_popular = np.asarray(user), np.asarray(score), np.asarray(is_head, dtype=np.float64)
    if not len(owner):
        return math.nan
    order = np.lexsort((-value, owner))
    is_first = np.concatenate([[True], owner[order][1:] != owner[order][:-1]])
    number = np.cumsum(is_first) - 1
    place = np.arange(len(owner)) - np.flatnonzero(is_first)[number]
    kept = place < top
    shown = np.bincount(number[kept])
    return float((np.bincount(number[kept], weights=is_popular[order][kept]) / shown).mean())
