"""Rows of the tables metric and comparison, summed up: what the page draws and `kar evaluate` prints. Test examples only."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from kar.metrics import relative_improvement

ARMS = ("base", "text", "knowledge", "permuted")
METRICS = ("auc", "gauc", "logloss", "ece", "head_share")
COUNTS = ("0", "1-5", "6-20", "21-100", "101+")
"""Training counts, as slices like item:1-5 name them."""
MAIN_PAIRS = (("knowledge", "text"), ("knowledge", "permuted"), ("knowledge", "base"), ("text", "base"), ("permuted", "base"))
Row = dict[str, Any]


@dataclass(frozen=True)
class Spread:
    """A metric over the seeds of one arm; NaN where no seed has it, sd NaN below two seeds."""

    mean: float
    sd: float


@dataclass(frozen=True)
class ArmFigures:
    """One arm of one base and backbone.

    Args:
        aucs: test AUC of each seed, in the order of the seeds.
        metrics: by name, over all test examples.
        relative_improvement: RelaImpr of the mean AUC over the base arm's; NaN for the base arm, or without one.
    """

    arm: str
    seed_count: int
    aucs: list[float]
    metrics: dict[str, Spread]
    relative_improvement: float


@dataclass(frozen=True)
class Point:
    """A difference in test AUC on the examples whose item (or user) has so many training examples; NaN: not defined."""

    count: str
    difference: float
    low: float
    high: float
    example_count: int
    user_count: int


def names(rows: Iterable[Row], published: tuple[str, str]) -> list[tuple[str, str]]:
    """(base, backbone) of the rows, the published one first."""
    return sorted({(row["base"], row["backbone"]) for row in rows}, key=lambda name: (name != published, name))


def of(rows: Iterable[Row], name: tuple[str, str]) -> list[Row]:
    """The rows of one base and backbone."""
    return [row for row in rows if (row["base"], row["backbone"]) == name]


def arms(metric: Iterable[Row]) -> list[ArmFigures]:
    """Every arm of one base and backbone, the usual four first."""
    values: dict[str, dict[str, dict[int, float]]] = {}
    for row in metric:
        if (row["split"], row["slice"]) == ("test", "all"):
            values.setdefault(row["arm"], {}).setdefault(row["metric"], {})[row["seed"]] = row["value"]
    base = spread(values.get("base", {}).get("auc", {}).values()).mean
    return [_arm(arm, values[arm], base) for arm in [*(a for a in ARMS if a in values), *sorted(set(values) - set(ARMS))]]


def _arm(arm: str, values: dict[str, dict[int, float]], base: float) -> ArmFigures:
    metrics = {metric: spread(values.get(metric, {}).values()) for metric in METRICS}
    improvement = math.nan if arm == "base" else relative_improvement(metrics["auc"].mean, base)
    aucs = [value for _, value in sorted(values.get("auc", {}).items())]
    return ArmFigures(arm, max(len(seeds) for seeds in values.values()), aucs, metrics, improvement)


def spread(values: Iterable[float]) -> Spread:
    finite = [v for v in values if math.isfinite(v)]
    return Spread(
        mean=statistics.fmean(finite) if finite else math.nan,
        sd=statistics.stdev(finite) if len(finite) > 1 else math.nan,
    )


def pairs(comparison: Iterable[Row]) -> list[tuple[str, str]]:
    """The pairs of arms that were compared: the usual ones, then knowledge less each ablation, then each ablation less the base."""
    found = {(row["arm_a"], row["arm_b"]) for row in comparison}
    others = sorted(found - set(MAIN_PAIRS), key=lambda pair: (pair[0] != "knowledge", pair))
    return [*(pair for pair in MAIN_PAIRS if pair in found), *others]


def over_all(comparison: Iterable[Row]) -> dict[tuple[str, str], dict[str, Row]]:
    """(arm_a, arm_b) → metric → its row, over all test examples."""
    rows = [row for row in comparison if row["slice"] == "all"]
    return {pair: {row["metric"]: row for row in rows if (row["arm_a"], row["arm_b"]) == pair} for pair in pairs(rows)}


def curve(comparison: Iterable[Row], side: str, pair: tuple[str, str]) -> list[Point]:
    """The uplift against the training count of the items or users: one point for each count that the test examples have."""
    rows = {row["slice"]: row for row in comparison if (row["arm_a"], row["arm_b"]) == pair and row["metric"] == "auc"}
    found = [(count, rows[f"{side}:{count}"]) for count in COUNTS if f"{side}:{count}" in rows]
    return [Point(c, row["difference"], row["low"], row["high"], row["example_count"], row["user_count"]) for c, row in found]
