"""Metrics of ranked lists: average precision and NDCG at k, per list, and their resampled means over users. numpy only.

Shape suffixes: L lists · N places of a list · M metrics at their cuts · U users · R resamples · F items to be found

A list's candidates stand in some order that knows nothing of their labels (here: the first stage's). Where two scores are equal, that order
stands, so that a model that says nothing keeps the list as it was.

Average precision at k is Σ_{i ≤ k} relevant_i · precision@i / min(k, relevant ones of the list). KAR's own code divides by the hits inside
k instead, which pays a list for what it did not find: one hit at place 1 counts 1 however many are missed. Both are reported, under
different names.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kar.metrics.bootstrap import draws

Float = NDArray[np.float64]
Bool = NDArray[np.bool_]
METRICS = ("map", "ndcg", "kar_map")
CUTS = (1, 3, 5, 7)
KEYS = tuple((metric, k) for metric in METRICS for k in CUTS)
"""What is reported of every list: (metric, k), in the order of `per_list`'s columns."""
AT = 10
FOUND = (f"p@{AT}", f"r@{AT}", f"ndcg@{AT}")
"""What is reported of every user for whom all items are ranked, in the order of `found_at`'s columns."""


def ranked(label_LN: ArrayLike, score_LN: ArrayLike, is_item_LN: Bool | None = None) -> Float:
    """[L, N] labels in the order of falling scores; equal scores stay as they stand, places without item come last with label 0.

    Args:
        is_item_LN: whether a place holds an item; None: all do.
    """
    label, score = np.asarray(label_LN, dtype=np.float64), np.asarray(score_LN, dtype=np.float64)
    is_item = np.ones(label.shape, bool) if is_item_LN is None else is_item_LN
    order_LN = np.argsort(np.where(is_item, -score, math.inf), axis=1, kind="stable")
    return np.take_along_axis(np.where(is_item, label, 0.0), order_LN, axis=1)


def average_precision(relevant_LN: Float, k: int) -> Float:
    """[L] AP@k of ranked labels (0 or 1), the standard one. NaN for a list without any relevant item."""
    return _ratio(_precision_sum(relevant_LN, k), np.minimum(relevant_LN.sum(axis=1), k))


def kar_average_precision(relevant_LN: Float, k: int) -> Float:
    """[L] AP@k as KAR's code has it, divided by the hits inside k; 0 without any. NaN for a list without any relevant item."""
    hits_L = relevant_LN[:, :k].sum(axis=1)
    value_L = np.where(hits_L > 0, _ratio(_precision_sum(relevant_LN, k), hits_L), 0.0)
    return np.where(relevant_LN.sum(axis=1) > 0, value_L, math.nan)


def ndcg(relevant_LN: Float, k: int) -> Float:
    """[L] NDCG@k of ranked labels: gains 2^label − 1 (the label itself for 0 and 1), discount 1 / log2(place + 1).

    NaN for a list without any relevant item.
    """
    ideal_LN = -np.sort(-relevant_LN, axis=1)
    return _ratio(_dcg(relevant_LN, k), _dcg(ideal_LN, k))


def reciprocal_rank(relevant_LN: Float, k: int) -> Float:
    """[L] 1 / place of the first relevant item, 0 if it is beyond k. NaN for a list without any."""
    top = relevant_LN[:, :k] > 0
    value_L = np.where(top.any(axis=1), 1.0 / (top.argmax(axis=1) + 1), 0.0)
    return np.where(relevant_LN.sum(axis=1) > 0, value_L, math.nan)


def per_list(relevant_LN: Float) -> Float:
    """[L, M] every metric at every cut, columns as in `KEYS`."""
    of_one = {"map": average_precision, "ndcg": ndcg, "kar_map": kar_average_precision}
    return np.stack([of_one[metric](relevant_LN, k) for metric, k in KEYS], axis=1)


def found_at(rank_F: ArrayLike, user_F: ArrayLike, k: int) -> tuple[NDArray[np.int64], NDArray[np.int64], Float]:
    """Precision, recall and NDCG at k of users for whom all items were ranked, from the places of what was to be found alone.

    Args:
        rank_F: 0-based place of each relevant item in its user's order.
        user_F: whose it is; any integers.

    Returns:
        [U] the users, rising; [U] how many relevant items each has; [U, 3] precision (of k places, however few items there are),
        recall, NDCG with gain 1 and discount 1 / log2(place + 1), the ideal being as many of them as fit into k.
    """
    users, owner_F, relevant_U = np.unique(np.asarray(user_F), return_inverse=True, return_counts=True)
    rank = np.asarray(rank_F)
    is_hit_F = rank < k
    hits_U = np.bincount(owner_F, weights=is_hit_F, minlength=len(users))
    gain_U = np.bincount(owner_F, weights=np.where(is_hit_F, 1 / np.log2(rank + 2), 0.0), minlength=len(users))
    ideal_K = np.cumsum(1 / np.log2(np.arange(2, k + 2)))
    return users, relevant_U, np.stack([hits_U / k, hits_U / relevant_U, gain_U / ideal_K[np.minimum(relevant_U, k) - 1]], axis=1)


def resampled_means(user_L: ArrayLike, value_LM: Float, resamples: int, seed: int = 0) -> Float:
    """[R + 1, M] means over the lists of resampled users; the first row is the mean of the sample itself.

    Lists of one user are not independent, so users are drawn with replacement, each with all its lists. Equal users and seeds give equal
    draws, so that two models' results can be subtracted resample by resample.

    Args:
        user_L: whose list it is; any integers.
        value_LM: a value per list, finite.
        resamples: R.
    """
    _, owner_L = np.unique(np.asarray(user_L), return_inverse=True)
    users = int(owner_L.max()) + 1 if len(owner_L) else 0
    if not users:
        return np.full((resamples + 1, value_LM.shape[1]), math.nan)
    list_count_U = np.bincount(owner_L, minlength=users)
    part_UM = np.stack([*(np.bincount(owner_L, weights=column, minlength=users) for column in value_LM.T), list_count_U], axis=1)
    total_RM = np.stack([weight_U @ part_UM for weight_U in draws(users, resamples, seed)])
    return np.asarray(total_RM[:, :-1] / total_RM[:, -1:])


def _precision_sum(relevant_LN: Float, k: int) -> Float:
    place_N = np.arange(1, relevant_LN.shape[1] + 1)
    precision_LN = relevant_LN.cumsum(axis=1) / place_N
    return np.asarray((precision_LN * relevant_LN)[:, :k].sum(axis=1))


def _dcg(relevant_LN: Float, k: int) -> Float:
    discount_N = 1 / np.log2(np.arange(2, relevant_LN.shape[1] + 2))
    return np.asarray((((2.0**relevant_LN) - 1) * discount_N)[:, :k].sum(axis=1))


def _ratio(over_L: Float, under_L: Float) -> Float:
    """over / under, NaN where under is 0."""
    return np.asarray(np.divide(over_L, under_L, out=np.full(len(over_L), math.nan), where=under_L > 0))
