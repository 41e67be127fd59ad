"""Metrics and what a test set can tell of their differences. numpy only.

Labels are 0 or 1; scores are logits (AUC and GAUC take any scores). A metric that is not defined (no rows, one class only) is NaN.

auc, gauc, logloss      how well scores rank, over all rows and within users, and how well they fit
relative_improvement    RelaImpr of an AUC over another
deciles, ece            calibration: predicted beside actual in ten equal shares of the rows
head_share              how popular the items are that a ranker puts first
Bootstrap, Interval     the difference of two arms, its interval, standard error and p value: paired, over users
holm                    p values of many comparisons
"""

from __future__ import annotations

from numpy.typing import ArrayLike

from kar.metrics.bootstrap import COMPARED, Bootstrap, Float
from kar.metrics.calibration import DECILES, Deciles, deciles, ece
from kar.metrics.inference import Interval, holm
from kar.metrics.popularity import HEAD, TOP, head_items, head_share
from kar.metrics.scores import auc, gauc, logloss, relative_improvement, row_losses, user_aucs

METRICS = (*COMPARED, "ece")
__all__ = [
    "COMPARED",
    "DECILES",
    "HEAD",
    "METRICS",
    "TOP",
    "Bootstrap",
    "Deciles",
    "Float",
    "Interval",
    "auc",
    "deciles",
    "ece",
    "gauc",
    "head_items",
    "head_share",
    "holm",
    "logloss",
    "relative_improvement",
    "row_losses",
    "user_aucs",
    "values",
]


def values(user: ArrayLike, label: ArrayLike, logit: ArrayLike) -> dict[str, float]:
    """All `METRICS` by name."""
    return {"auc": auc(label, logit), "gauc": gauc(user, label, logit), "logloss": logloss(label, logit), "ece": ece(label, logit)}
