"""How well scores rank and how well they fit: AUC, GAUC, LogLoss, RelaImpr."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Float = NDArray[np.float64]
Int = NDArray[np.int64]


def auc(label: ArrayLike, score: ArrayLike) -> float:
    """Area under the ROC curve: the share of (positive, negative) pairs in the right order, ties counting half."""
    is_positive, value = np.asarray(label) > 0.5, np.asarray(score)
    positives = int(is_positive.sum())
    negatives = len(is_positive) - positives
    if not positives or not negatives:
        return math.nan
    sum_of_ranks = float(_ranks(value)[is_positive].sum())
    return (sum_of_ranks - positives * (positives + 1) / 2) / (positives * negatives)


def _ranks(score: NDArray[Any]) -> Float:
    """1-based ranks; equal scores share their mean rank."""
    order = np.argsort(score, kind="stable")  # a pass over rows that come sorted
    rank = np.empty(len(order))
    rank[order] = _mean_places(_is_new(score[order]))
    return rank


def _is_new(ascending: NDArray[Any]) -> NDArray[np.bool_]:
    """Whether each value differs from the one before."""
    return np.concatenate([[True], ascending[1:] != ascending[:-1]]) if len(ascending) else np.empty(0, bool)


def _mean_places(is_new: NDArray[np.bool_]) -> Float:
    """1-based places in a row; neighbours that belong together share their mean place."""
    place = np.cumsum(is_new) - 1
    count = np.bincount(place)
    mean = np.asarray(np.cumsum(count) - (count - 1) / 2, dtype=np.float64)
    return np.asarray(mean[place])


def logloss(label: ArrayLike, logit: ArrayLike) -> float:
    """Mean binary cross-entropy from logits: log(1 + exp(x)) − y · x, without overflow."""
    losses = row_losses(label, logit)
    return float(losses.mean()) if len(losses) else math.nan


def row_losses(label: ArrayLike, logit: ArrayLike) -> Float:
    """[rows] binary cross-entropy of each row, float64."""
    x = np.asarray(logit, dtype=np.float64)
    return np.logaddexp(0.0, x) - np.asarray(label, dtype=np.float64) * x


def gauc(user: ArrayLike, label: ArrayLike, score: ArrayLike) -> float:
    """AUC within each user that has both classes, weighted by the user's rows."""
    value, weight = user_aucs(user, label, score)
    has_both = weight > 0
    return float(np.average(value[has_both], weights=weight[has_both])) if has_both.any() else math.nan


def user_aucs(user: ArrayLike, label: ArrayLike, score: ArrayLike) -> tuple[Float, Int]:
    """Per user (0 … max): AUC (0 where not defined) and weight: rows, or 0 where it is not defined.

    Args:
        user: small non-negative integers.
    """
    owner, is_positive = np.asarray(user), np.asarray(label) > 0.5
    users = int(owner.max()) + 1 if len(owner) else 0
    # ranks over (user, score) minus the ranks of the users before are the ranks within the user
    by_score = np.argsort(np.asarray(score), kind="stable")
    # the narrowest integers: numpy sorts 16-bit ones by counting
    order = by_score[np.argsort(owner[by_score].astype(np.min_scalar_type(users)), kind="stable")]
    is_new = _is_new(owner[order]) | _is_new(np.asarray(score)[order])
    rank = np.empty(len(owner))
    rank[order] = _mean_places(is_new)
    rows = np.bincount(owner, minlength=users)
    rank -= (np.cumsum(rows) - rows)[owner]
    positives = np.bincount(owner[is_positive], minlength=users)
    pairs = positives * (rows - positives)
    above = np.bincount(owner[is_positive], weights=rank[is_positive], minlength=users) - positives * (positives + 1) / 2
    value: Float = np.divide(above, pairs, out=np.zeros(users), where=pairs > 0)
    return value, np.where(pairs > 0, rows, 0)


def relative_improvement(value: float, base: float) -> float:
    """RelaImpr of an AUC over a base's: (value − 0.5) / (base − 0.5) − 1. NaN where the base knows nothing (0.5)."""
    return (value - 0.5) / (base - 0.5) - 1 if base != 0.5 else math.nan
