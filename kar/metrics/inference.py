"""What a difference is worth: interval, standard error, p value, the smallest that could have been seen, many at once."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

_SEEN = 2.8
"""Standard errors of a difference that is found at 5 % two-sided in 80 % of the tests: 1.96 + 0.84."""


@dataclass(frozen=True)
class Interval:
    """A difference of two arms, its 95 % interval and its standard error; all NaN where it is not defined."""

    difference: float
    low: float
    high: float
    se: float

    @property
    def p(self) -> float:
        """Two-sided p value: of the difference in standard errors under the normal distribution.

        Not the share of resamples beyond 0, which ends at 2 / resamples: Holm over twenty comparisons would turn that into 0.04.
        """
        if not math.isfinite(self.difference) or not math.isfinite(self.se):
            return math.nan
        if self.se == 0.0:
            return 1.0 if self.difference == 0.0 else 0.0
        return math.erfc(abs(self.difference) / self.se / math.sqrt(2))

    @property
    def detectable(self) -> float:
        """The smallest true difference that this test would find in four of five cases (5 % two-sided)."""
        return _SEEN * self.se


def holm(p: ArrayLike) -> NDArray[np.float64]:
    """Holm's step-down p values over one family, in the order given. NaN stays NaN and does not count.

    Source: Holm (1979), A simple sequentially rejective multiple test procedure.
    """
    given = np.asarray(p, dtype=np.float64)
    adjusted = np.full(len(given), math.nan)
    ascending = np.argsort(given, kind="stable")[: int(np.isfinite(given).sum())]  # NaN sorts last
    factor = np.arange(len(ascending), 0, -1)
    adjusted[ascending] = np.minimum(np.maximum.accumulate(given[ascending] * factor), 1.0)
    return adjusted
