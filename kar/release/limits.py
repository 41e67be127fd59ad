"""The thresholds of the promotion gate; what each means stands in the settings section [features.gate]."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """One field per setting of [features.gate], of the same name; the defaults are there."""

    min_sample: int
    min_rows_share: float
    max_rows_share: float
    min_kept_share: float
    max_norm_change: float
    max_norm_spread: float
    min_effective_rank: float
    min_effective_rank_share: float
    max_mean_cosine: float
    min_unchanged_cosine: float
    min_changed_cosine: float
    min_coverage: float
    max_coverage_drop: float
    max_rejected_share: float
    max_reason_rise: float
