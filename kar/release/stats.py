"""Figures that show a collapsed or shifted vector space at a glance; recomputed by `verify`."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable

import numpy as np
import pyarrow as pa

_SAMPLE = 2_048
_DAY_US = 86_400_000_000
_CHUNK = 131_072  # rows at a time
_AGES = (0, 1, 2, 3, 4, 5, 6, 7, 14, 30, 60, 90, 180, 365)  # days; each class reaches to the next, the last has no end


def age_histogram(asked_at: pa.Array, date: dt.date) -> dict[str, int]:
    """How old the texts are: lower end of each class in days -> rows. Rows without knowledge are in none.

    Args:
        asked_at: timestamps [N], null where missing.
        date: the release's; what was asked after it (the night that follows) counts as 0 days old.
    """
    since_1970 = (date - dt.date(1970, 1, 1)).days
    counts = np.zeros(len(_AGES), np.int64)
    for first in range(0, len(asked_at), _CHUNK):
        asked_us = asked_at.slice(first, _CHUNK).drop_null().cast(pa.timestamp("us", tz="UTC")).cast(pa.int64()).to_numpy()
        days = np.maximum(since_1970 - asked_us // _DAY_US, 0)
        counts += np.bincount(np.searchsorted(_AGES, days, side="right") - 1, minlength=len(_AGES))
    return {str(_AGES[n]): int(count) for n, count in enumerate(counts) if count}


def view_stats(take: Callable[[np.ndarray], np.ndarray], is_missing: np.ndarray) -> dict[str, float | int | None]:
    """Norm, effective rank and mean pairwise cosine over the rows that have knowledge.

    Args:
        take: rows -> their vectors, float32 [len(rows), W].
        is_missing: bool [N]; such rows hold the default vector and are left out.

    Returns:
        missing_share over all rows; the rest None where fewer than two rows have knowledge. Rank and cosine are of at
        most 2,048 rows, evenly spaced in id order.

    Source:
        effective rank: Roy & Vetterli 2007, exp of the entropy of the normalised singular values.
    """
    covered = np.flatnonzero(~is_missing)
    share = float(is_missing.mean()) if len(is_missing) else None
    if len(covered) < 2:
        return {"missing_share": share, "norm_mean": None, "norm_sd": None, "effective_rank": None, "cosine_mean": None, "sample_count": 0}
    norm = np.concatenate([_norms(take(rows)) for rows in np.array_split(covered, -(-len(covered) // 65_536))])
    sample = take(covered[np.linspace(0, len(covered) - 1, min(len(covered), _SAMPLE)).astype(np.int64)]).astype(np.float64)
    return {
        "missing_share": share,
        "norm_mean": float(norm.mean()),
        "norm_sd": float(norm.std()),
        "effective_rank": _effective_rank(sample),
        "cosine_mean": _mean_cosine(sample),
        "sample_count": len(sample),
    }


def _norms(vectors_NW: np.ndarray) -> np.ndarray:
    norms: np.ndarray = np.sqrt(np.einsum("nw,nw->n", vectors_NW, vectors_NW, dtype=np.float64))
    return norms


def _effective_rank(sample: np.ndarray) -> float:
    # singular values by way of the small Gram matrix [W, W]: far cheaper than an SVD of the sample
    singular = np.sqrt(np.clip(np.linalg.eigvalsh(sample.T @ sample), 0.0, None))
    if singular.sum() == 0.0:
        return 0.0
    share = singular / singular.sum()
    share = share[share > 0]
    return float(np.exp(-(share * np.log(share)).sum()))


def _mean_cosine(sample: np.ndarray) -> float:
    """Mean cosine over all pairs of different rows; a zero vector has cosine 0 with everything."""
    norms = np.linalg.norm(sample, axis=1, keepdims=True)
    units = np.divide(sample, norms, out=np.zeros_like(sample), where=norms > 0)
    total = units.sum(axis=0)
    pairs = len(sample) * (len(sample) - 1)
    return float((total @ total - (units * units).sum()) / pairs)
