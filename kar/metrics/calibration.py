"""Calibration: whether what is predicted is what happens."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Float = NDArray[np.float64]
DECILES = 10


@dataclass(frozen=True)
class Deciles:
    """Rows in ten shares by their prediction, the lowest first; NaN where a share is empty.

    Args:
        count: [10] rows.
        predicted: [10] mean predicted probability.
        actual: [10] mean label.
    """

    count: NDArray[np.int64]
    predicted: Float
    actual: Float

    @property
    def ratio(self) -> Float:
        """[10] predicted / actual: above 1 it promises too much. NaN where nothing was positive."""
        found: Float = np.divide(self.predicted, self.actual, out=np.full(DECILES, math.nan), where=self.actual > 0)
        return found

    @property
    def ece(self) -> float:
        """Σ rows / all rows · |predicted − actual|."""
        gap = np.abs(self.predicted - self.actual)
        filled = self.count > 0
        return float((self.count[filled] * gap[filled]).sum() / self.count.sum()) if filled.any() else math.nan


def deciles(label: ArrayLike, logit: ArrayLike) -> Deciles:
    """Ten shares of equal mass by predicted probability. Equal predictions share a decile, so shares may differ where many are equal.

    Source: scikit-learn's `calibration_curve(strategy="quantile", n_bins=10)`, whose bins these are.
    """
    happened, x = np.asarray(label, dtype=np.float64), np.asarray(logit, dtype=np.float64)
    if not len(x):
        empty = np.full(DECILES, math.nan)
        return Deciles(np.zeros(DECILES, np.int64), empty, empty)
    probability = probabilities(x)
    edges = np.percentile(probability, 100 * np.linspace(0, 1, DECILES + 1)[1:-1])
    place = np.searchsorted(edges, probability)
    count = np.bincount(place, minlength=DECILES)
    sums = [np.bincount(place, weights=of, minlength=DECILES) for of in (probability, happened)]
    predicted, actual = (np.divide(total, count, out=np.full(DECILES, math.nan), where=count > 0) for total in sums)
    return Deciles(count, predicted, actual)


def probabilities(logit: ArrayLike) -> Float:
    """1 / (1 + exp(−logit)) without overflow."""
    x = np.asarray(logit, dtype=np.float64)
    small = np.exp(-np.abs(x))  # of what is not positive
    return np.asarray(np.where(x >= 0, 1.0, small) / (1.0 + small))


def ece(label: ArrayLike, logit: ArrayLike) -> float:
    """Expected calibration error over deciles of equal mass."""
    return deciles(label, logit).ece
