"""The arms side by side: every seed's test AUC, the mean of each metric, and the differences that count."""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from kar.page.facts import Facts
from kar.page.marks import Scale, Tick, interval, scale_of, seeds

TITLES = {
    "deepfm": "DeepFM",
    "xdeepfm": "xDeepFM",
    "dcn": "DCN",
    "dcnv2": "DCNv2",
    "autoint": "AutoInt",
    "fignn": "FiGNN",
    "fibinet": "FiBiNET",
    "din": "DIN",
    "dien": "DIEN",
}
BASES = {"thin": "thin", "same_evidence": "of the same evidence", "rich": "rich"}
ARMS = ("base", "text", "knowledge", "permuted")
METRICS = ("auc", "gauc", "logloss")
SLICES = {
    "all": "all",
    "warm": "warm items",
    "cold": "cold items",
    "covered": "covered",
    "uncovered": "uncovered",
}
_PAIRS = (("knowledge", "text"), ("knowledge", "permuted"), ("knowledge", "base"))
_PAIR_TITLES = {
    ("knowledge", "text"): "what the language model adds to the raw text",
    ("knowledge", "permuted"): "what it matters whose knowledge it is",
    ("knowledge", "base"): "what everything beside the ids adds",
}


@dataclass(frozen=True)
class Spread:
    """A metric over the seeds of one arm; NaN where no seed has it, sd NaN below two seeds."""

    mean: float
    sd: float


@dataclass(frozen=True)
class ArmRow:
    """One arm of one backbone. `metrics` holds test metrics over all examples."""

    arm: str
    lane: Markup
    seed_count: int
    metrics: dict[str, Spread]


@dataclass(frozen=True)
class DifferenceRow:
    """One slice of one pair of arms: the difference in test AUC and its paired interval."""

    slice: str
    lane: Markup
    difference: float
    low: float
    high: float
    user_count: int
    is_sure: bool


@dataclass(frozen=True)
class Pair:
    """Two arms and their differences over the slices. `title` is empty for a pair beyond the usual three."""

    arm_a: str
    arm_b: str
    title: str
    rows: list[DifferenceRow]


@dataclass(frozen=True)
class Backbone:
    """Everything that was measured of one backbone. `summary` is `pairs` of the knowledge arm over all examples, on a scale of its own."""

    name: str
    title: str
    is_published: bool
    arms: list[ArmRow]
    missing_arms: list[str]
    ticks: list[Tick]
    pairs: list[Pair]
    difference_ticks: list[Tick]
    summary: list[Pair]
    summary_ticks: list[Tick]
    example_count: int
    user_count: int


def backbones(facts: Facts) -> list[Backbone]:
    """Every backbone with a metric or a comparison, the published one first."""
    metrics, comparisons = facts.metric.to_pylist(), facts.comparison.to_pylist()
    published = tuple(facts.ran_with("adaptor", "adaptor", f"published_{what}") for what in ("base", "backbone"))
    names = sorted({(row["base"], row["backbone"]) for row in [*metrics, *comparisons]}, key=lambda name: (name != published, name))
    return [_backbone(name, name == published, _of(metrics, name), _of(comparisons, name)) for name in names]


def _of(rows: list[dict[str, Any]], name: tuple[str, str]) -> list[dict[str, Any]]:
    return [row for row in rows if (row["base"], row["backbone"]) == name]


def title(base: str, backbone: str) -> str:
    """A ranker and its base in words."""
    return f"{TITLES.get(backbone, backbone)} over the base {BASES.get(base, base)}"


def _backbone(name: tuple[str, str], is_published: bool, metrics: list[dict[str, Any]], comparisons: list[dict[str, Any]]) -> Backbone:
    over_all = [row for row in metrics if row["split"] == "test" and row["slice"] == "all"]
    found = {row["arm"] for row in over_all}
    arms = [arm for arm in ARMS if arm in found] + sorted(found - set(ARMS))
    scale = scale_of([row["value"] for row in over_all if row["metric"] == "auc"])
    differences = [row for row in comparisons if row["metric"] == "auc"]
    over_slices = _difference_scale(differences)
    main = [row for row in differences if row["slice"] == "all" and row["arm_a"] == "knowledge"]
    over_main = _difference_scale(main)
    return Backbone(
        name="-".join(name),
        title=title(*name),
        is_published=is_published,
        arms=[_arm(arm, [r for r in over_all if r["arm"] == arm], scale) for arm in arms],
        missing_arms=[arm for arm in ARMS if arm not in found],
        ticks=scale.ticks(),
        pairs=_pairs(differences, over_slices),
        difference_ticks=over_slices.ticks(7, is_signed=True),
        summary=_pairs(main, over_main),
        summary_ticks=over_main.ticks(7, is_signed=True),
        example_count=max((row["example_count"] for row in over_all), default=0),
        user_count=max((row["user_count"] for row in over_all), default=0),
    )


def _arm(arm: str, rows: list[dict[str, Any]], scale: Scale) -> ArmRow:
    values: dict[str, list[float]] = defaultdict(list)
    for row in sorted(rows, key=lambda r: r["seed"]):
        values[row["metric"]].append(row["value"])
    return ArmRow(
        arm=arm,
        lane=seeds(scale, values["auc"], arm if arm in ARMS else "other"),
        seed_count=len({row["seed"] for row in rows}),
        metrics={metric: _spread(values[metric]) for metric in METRICS},
    )


def _spread(values: list[float]) -> Spread:
    finite = [v for v in values if math.isfinite(v)]
    return Spread(
        mean=statistics.fmean(finite) if finite else math.nan,
        sd=statistics.stdev(finite) if len(finite) > 1 else math.nan,
    )


def _pairs(rows: list[dict[str, Any]], scale: Scale) -> list[Pair]:
    others = sorted({(row["arm_a"], row["arm_b"]) for row in rows} - set(_PAIRS))
    pairs = []
    for arm_a, arm_b in [*_PAIRS, *others]:
        mine = sorted((r for r in rows if (r["arm_a"], r["arm_b"]) == (arm_a, arm_b)), key=_slice_order)
        if mine:
            pairs.append(Pair(arm_a, arm_b, _PAIR_TITLES.get((arm_a, arm_b), ""), [_difference(row, scale) for row in mine]))
    return pairs


def _slice_order(row: dict[str, Any]) -> tuple[int, str]:
    known = list(SLICES)
    return (known.index(row["slice"]) if row["slice"] in known else len(known), row["slice"])


def _difference(row: dict[str, Any], scale: Scale) -> DifferenceRow:
    low, high = row["low"], row["high"]
    return DifferenceRow(
        slice=row["slice"],
        lane=interval(scale, row["difference"], low, high),
        difference=row["difference"],
        low=low,
        high=high,
        user_count=row["user_count"],
        is_sure=low > 0 or high < 0,
    )


def _difference_scale(rows: list[dict[str, Any]]) -> Scale:
    """A scale for the intervals over all and over warm examples; a wider one of a small slice runs off its edge, dashed."""
    main = [row[end] for row in rows if row["slice"] in ("all", "warm") for end in ("low", "high")]
    most = 2.5 * max((abs(v) for v in main if math.isfinite(v)), default=math.inf)
    ends = [row[end] for row in rows for end in ("low", "high", "difference") if math.isfinite(row[end])]
    return scale_of([min(max(v, -most), most) for v in ends], zero=True)
