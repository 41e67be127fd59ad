"""The paired bootstrap over users.

Shape suffixes, this file only:  U users · R resamples and the sample itself before them · B blocks of rows by score
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kar.metrics.inference import Interval
from kar.metrics.scores import row_losses, user_aucs

Float = NDArray[np.float64]
COMPARED = ("auc", "gauc", "logloss")
MATRIX_USERS = 2_048
"""Up to so many users who beats whom is held as a matrix of users × users: then a resample costs no pass over the rows."""
_BLOCK_ROWS = 64
_BLOCKS = 256


class Bootstrap:
    """Resamples the users of some rows with replacement, the same draws for every arm.

    Rows of one user are not independent, so users are drawn, each with all its rows. A metric of an arm in a resample is the
    mean over its seeds; the difference of two arms is taken inside each resample.

    Args:
        user: per row; any integers.
        label: per row.
        resamples: how many.
        seed: of the draws; equal seeds give equal intervals.
        matrix_users: up to how many users AUC goes by the matrix; above, by one pass over the sorted rows for each resample.
    """

    def __init__(self, user: ArrayLike, label: ArrayLike, resamples: int, seed: int = 0, matrix_users: int = MATRIX_USERS) -> None:
        _, self.user = np.unique(np.asarray(user), return_inverse=True)
        self.label = np.asarray(label)
        self.users = int(self.user.max()) + 1 if len(self.user) else 0
        self.resamples, self.seed = resamples, seed
        self._is_positive = self.label > 0.5
        self._counts_RU = np.stack(list(self._draws())) if self.users <= matrix_users else None

    def arm(self, metric: str, logits: Sequence[ArrayLike]) -> Float:
        """[resamples + 1] an arm's metric, mean over seeds; the first is that of the sample itself. Arguments as of `metrics`."""
        return self.metrics(logits, [metric])[metric]

    def metrics(self, logits: Sequence[ArrayLike], names: Sequence[str] = COMPARED) -> dict[str, Float]:
        """Several metrics of an arm by name, as `arm` gives one; those that rank share the work.

        Args:
            logits: one array of row logits per seed.
            names: of `COMPARED`.
        """
        scores = [np.asarray(logit) for logit in logits]
        ranked = self._ranked(scores) if {"auc", "gauc"} & set(names) else {}
        return {name: ranked[name] if name in ranked else self._logloss(scores) for name in names}

    def ratio(self, sum_U: NDArray[Any], weight_U: NDArray[Any]) -> Float:
        """[resamples + 1] Σ sum / Σ weight over the resampled users, in the order of their ids; NaN where the weight is 0."""
        parts_U2 = np.stack([sum_U, weight_U], axis=1)
        total_R2 = np.stack([count_U @ parts_U2 for count_U in self._draws()]) if self._counts_RU is None else self._counts_RU @ parts_U2
        return _divide(total_R2[:, 0], total_R2[:, 1])

    @staticmethod
    def difference(arm_a: Float, arm_b: Float) -> Interval:
        """arm_a − arm_b of two results of `arm`: over the resamples in which both are defined, 2.5 % and 97.5 %, and their spread.

        A difference that no resample changes rests on too few users to have an interval: one or two decide it.
        """
        resampled = (arm_a - arm_b)[1:]
        defined = resampled[np.isfinite(resampled)]
        point = float(arm_a[0] - arm_b[0])
        if not math.isfinite(point) or len(defined) < 2:
            return Interval(math.nan, math.nan, math.nan, math.nan)
        low, high = np.quantile(defined, [0.025, 0.975])
        if low == high and point != 0.0:
            return Interval(point, math.nan, math.nan, math.nan)
        return Interval(point, float(low), float(high), float(defined.std(ddof=1)))

    def _draws(self) -> Iterator[Float]:
        return draws(self.users, self.resamples, self.seed)

    def _ranked(self, scores: list[NDArray[Any]]) -> dict[str, Float]:
        """AUC and GAUC."""
        rows_U, positive_U = (np.bincount(self.user[rows], minlength=self.users) for rows in (slice(None), self._is_positive))
        pairs_U = positive_U * (rows_U - positive_U)
        weight_U = np.where(pairs_U > 0, rows_U, 0)
        if self._counts_RU is None:
            auc = np.asarray(np.mean([self._auc_by_rows(score) for score in scores], axis=0))
            value_U = np.mean([user_aucs(self.user, self.label, score)[0] for score in scores], axis=0)
        else:
            # labels are the same for all seeds, so their mean AUC is the AUC of their mean wins
            wins_UU = np.mean([wins(self.user, self._is_positive, score, self.users) for score in scores], axis=0)
            won_R = np.einsum("ru,ru->r", self._counts_RU @ wins_UU, self._counts_RU)
            auc = _divide(won_R, (self._counts_RU @ positive_U) * (self._counts_RU @ (rows_U - positive_U)))
            value_U = np.divide(wins_UU.diagonal(), pairs_U, out=np.zeros(self.users), where=pairs_U > 0)
        return {"auc": auc, "gauc": self.ratio(value_U * weight_U, weight_U)}

    def _auc_by_rows(self, score: NDArray[Any]) -> Float:
        """One score's AUC per resample: the rows are sorted once, a resample only reweights them."""
        by_score = np.argsort(score[~self._is_positive], kind="stable")
        negative, negative_user = score[~self._is_positive][by_score], self.user[~self._is_positive][by_score]
        by_score = np.argsort(score[self._is_positive], kind="stable")
        positive, positive_user = score[self._is_positive][by_score], self.user[self._is_positive][by_score]
        below, up_to = np.searchsorted(negative, positive, "left"), np.searchsorted(negative, positive, "right")
        tied = np.flatnonzero(below != up_to)
        result = []
        weight_below = np.zeros(len(negative) + 1)
        for count_U in self._draws():
            np.cumsum(count_U[negative_user], out=weight_below[1:])
            beaten = weight_below[below]
            beaten[tied] = (beaten[tied] + weight_below[up_to[tied]]) / 2
            weight = count_U[positive_user]
            pairs = weight.sum() * weight_below[-1]
            # no `@`: its threads cost more than they save on vectors of this size
            result.append((weight * beaten).sum() / pairs if pairs else math.nan)
        return np.array(result)

    def _logloss(self, logits: list[NDArray[Any]]) -> Float:
        loss = np.mean([row_losses(self.label, logit) for logit in logits], axis=0)
        loss_U = np.bincount(self.user, weights=loss, minlength=self.users)
        return self.ratio(loss_U, np.bincount(self.user, minlength=self.users))


def draws(users: int, resamples: int, seed: int) -> Iterator[Float]:
    """How often each user [U] is in the sample: first the sample itself, then every resample; the same each time."""
    yield np.ones(users)
    draw = np.random.default_rng(seed)
    for _ in range(resamples):
        yield np.bincount(draw.integers(0, max(users, 1), size=users), minlength=users).astype(np.float64)


def wins(user: NDArray[np.int64], is_positive: NDArray[np.bool_], score: NDArray[Any], users: int) -> Float:
    """[U, U] pairs of a positive row of the one user and a negative row of the other that stand in the right order; ties count half.

    The rows, by score, fall into blocks. Between two blocks the order is known, so their pairs are one matrix product; pairs within a
    block count half there, and what they deserve more or less is added pair by pair. A block never cuts through equal scores.
    """
    order = np.argsort(score, kind="stable")
    owner, value, is_one = user[order], score[order], is_positive[order]
    block = _blocks(value)
    found, negative_U = np.zeros((users, users)), np.zeros(users)
    # some blocks at a time: what they need stays in the processor's cache
    starts = np.arange(0, block[-1] + 1 + _BLOCKS, _BLOCKS) if len(block) else np.empty(0, np.int64)
    edges: NDArray[np.int64] = np.searchsorted(block, starts)
    for first, last in itertools.pairwise(edges):
        part = slice(first, last)
        own, local = owner[part], block[part] - block[first]
        positive_BU, negative_BU = (_per_cell(local[rows] * users + own[rows], users) for rows in (is_one[part], ~is_one[part]))
        below_BU = np.cumsum(negative_BU, axis=0) - negative_BU / 2 + negative_U
        found += positive_BU.T @ below_BU + _within(own, value[part], is_one[part], local, users)
        negative_U += negative_BU.sum(axis=0)
    return found


def _per_cell(cell: NDArray[np.int64], users: int) -> Float:
    """[B, U] rows of each user in each block."""
    return np.bincount(cell, minlength=_BLOCKS * users).reshape(_BLOCKS, users).astype(np.float64)


def _blocks(value: NDArray[Any]) -> NDArray[np.int64]:
    """Block of each row of ascending scores: about `_BLOCK_ROWS` rows each; equal scores that are more have a block of their own."""
    if not len(value):
        return np.empty(0, np.int64)
    first = np.flatnonzero(np.concatenate([[True], value[1:] != value[:-1]]))  # of each distinct score
    rows = np.diff(np.append(first, len(value)))
    is_large = rows >= _BLOCK_ROWS
    stretch = first // _BLOCK_ROWS
    is_new = np.concatenate([[False], (stretch[1:] != stretch[:-1]) | is_large[1:] | is_large[:-1]])
    return np.repeat(np.cumsum(is_new), rows)


def _within(owner: NDArray[np.int64], value: NDArray[Any], is_one: NDArray[np.bool_], block: NDArray[np.int64], users: int) -> Float:
    """[U, U] +½ for each pair of one block in the right order, −½ in the wrong one, 0 for a tie."""
    positive, negative = np.flatnonzero(is_one), np.flatnonzero(~is_one)
    begin, end = (np.searchsorted(block[negative], block[positive], side) for side in ("left", "right"))
    edge = [np.searchsorted(block, block[positive], side) for side in ("left", "right")]
    is_mixed = value[edge[0]] != value[edge[1] - 1]  # elsewhere all are ties, and they may be very many
    count = np.where(is_mixed, end - begin, 0)
    one = np.repeat(positive, count)
    other = negative[np.arange(len(one)) - np.repeat(np.cumsum(count) - count, count) + np.repeat(begin, count)]
    half = (np.sign(value[one] - value[other]) / 2).astype(np.float64)
    found: Float = np.bincount(owner[one] * users + owner[other], weights=half, minlength=users * users).astype(np.float64)
    return found.reshape(users, users)


def _divide(above: NDArray[Any], below: NDArray[Any]) -> Float:
    found: Float = np.divide(above, below, out=np.full(len(above), math.nan), where=below > 0)
    return found
