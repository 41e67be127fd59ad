"""Ranking metrics, the paired bootstrap over users, and the verdict in words. numpy only.

Labels are 0 or 1; scores are logits (AUC and GAUC take any scores). A metric that is not defined (no rows, one class only) is NaN.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Float = NDArray[np.float64]
Int = NDArray[np.int64]
METRICS = ("auc", "gauc", "logloss")


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
    _, place, count = np.unique(score, return_inverse=True, return_counts=True)
    return (np.cumsum(count) - (count - 1) / 2)[place]


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
    order = np.lexsort((np.asarray(score), owner))
    pair = np.stack([owner[order].astype(np.float64), np.asarray(score)[order].astype(np.float64)])
    is_new = np.concatenate([[True], (pair[:, 1:] != pair[:, :-1]).any(axis=0)]) if len(order) else np.empty(0, bool)
    place = np.cumsum(is_new) - 1
    count = np.bincount(place)
    rank = np.empty(len(owner))
    rank[order] = (np.cumsum(count) - (count - 1) / 2)[place]
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


def values(user: ArrayLike, label: ArrayLike, logit: ArrayLike) -> dict[str, float]:
    """All `METRICS` by name."""
    return {"auc": auc(label, logit), "gauc": gauc(user, label, logit), "logloss": logloss(label, logit)}


@dataclass(frozen=True)
class Interval:
    """A difference of two arms and its 95 % interval."""

    difference: float
    low: float
    high: float


class Bootstrap:
    """Paired bootstrap over users: resamples the users of some rows with replacement, the same draws for every arm.

    Rows of one user are not independent, so users are drawn, each with all its rows. A metric of an arm in a resample is the
    mean over its seeds; the difference of two arms is taken inside each resample. Each arm's rows are sorted once; a resample
    then only reweights them.

    Args:
        user: per row; any integers.
        label: per row.
        resamples: how many.
        seed: of the draws; equal seeds give equal intervals.
    """

    def __init__(self, user: ArrayLike, label: ArrayLike, resamples: int, seed: int = 0) -> None:
        _, self.user = np.unique(np.asarray(user), return_inverse=True)
        self.label = np.asarray(label)
        self.users = int(self.user.max()) + 1 if len(self.user) else 0
        self.resamples, self.seed = resamples, seed

    def arm(self, metric: str, logits: Sequence[ArrayLike]) -> Float:
        """[resamples + 1] an arm's metric, mean over seeds; the first is that of the sample itself.

        Args:
            metric: of `METRICS`.
            logits: one array of row logits per seed.
        """
        of_one: dict[str, Callable[[NDArray[Any]], Float]] = {"auc": self._auc, "gauc": self._gauc, "logloss": self._logloss}
        return np.asarray(np.mean([of_one[metric](np.asarray(logit)) for logit in logits], axis=0))

    @staticmethod
    def difference(arm_a: Float, arm_b: Float) -> Interval:
        """arm_a − arm_b of two results of `arm`: 2.5 % and 97.5 % of the resamples in which both are defined."""
        resampled = (arm_a - arm_b)[1:]
        defined = resampled[np.isfinite(resampled)]
        low, high = np.quantile(defined, [0.025, 0.975]) if len(defined) else (math.nan, math.nan)
        point = float(arm_a[0] - arm_b[0])
        return Interval(point, float(low), float(high)) if math.isfinite(point) else Interval(math.nan, math.nan, math.nan)

    def _counts(self) -> Iterator[Float]:
        """How often each user [U] is in the sample: first the sample itself, then every resample; the same each time."""
        yield np.ones(self.users)
        draw = np.random.default_rng(self.seed)
        for _ in range(self.resamples):
            yield np.bincount(draw.integers(0, max(self.users, 1), size=self.users), minlength=self.users).astype(np.float64)

    def _auc(self, score: NDArray[Any]) -> Float:
        is_positive = self.label > 0.5
        by_score = np.argsort(score[~is_positive], kind="stable")
        negative, negative_user = score[~is_positive][by_score], self.user[~is_positive][by_score]
        by_score = np.argsort(score[is_positive], kind="stable")
        positive, positive_user = score[is_positive][by_score], self.user[is_positive][by_score]
        below, up_to = np.searchsorted(negative, positive, "left"), np.searchsorted(negative, positive, "right")
        tied = np.flatnonzero(below != up_to)
        result = []
        weight_below = np.zeros(len(negative) + 1)
        for count_U in self._counts():
            np.cumsum(count_U[negative_user], out=weight_below[1:])
            beaten = weight_below[below]
            beaten[tied] = (beaten[tied] + weight_below[up_to[tied]]) / 2
            weight = count_U[positive_user]
            pairs = weight.sum() * weight_below[-1]
            # no `@`: its threads cost more than they save on vectors of this size
            result.append((weight * beaten).sum() / pairs if pairs else math.nan)
        return np.array(result)

    def _gauc(self, score: NDArray[Any]) -> Float:
        value_U, weight_U = user_aucs(self.user, self.label, score)
        return self._mean(value_U * weight_U, weight_U)

    def _logloss(self, logit: NDArray[Any]) -> Float:
        loss_U = np.bincount(self.user, weights=row_losses(self.label, logit), minlength=self.users)
        return self._mean(loss_U, np.bincount(self.user, minlength=self.users))

    def _mean(self, sum_U: NDArray[Any], weight_U: NDArray[Any]) -> Float:
        """Per resample Σ sum / Σ weight over its users; NaN where the weight is 0."""
        parts_U2 = np.stack([sum_U, weight_U], axis=1)
        total_R2 = np.stack([count_U @ parts_U2 for count_U in self._counts()])
        ratio: Float = np.divide(total_R2[:, 0], total_R2[:, 1], out=np.full(len(total_R2), math.nan), where=total_R2[:, 1] > 0)
        return ratio
