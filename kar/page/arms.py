"""The arms side by side: every seed's test AUC, the mean of each metric, the differences that count, and where they come from."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from kar.page import figures
from kar.page.calibration import Fit, fits
from kar.page.facts import Facts
from kar.page.figures import ARMS, ArmFigures
from kar.page.marks import Scale, Tick, interval, scale_of, seeds
from kar.page.study import ArmStudy, studies
from kar.page.uplift import Course, courses
from kar.page.use import ViewUse, views

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
BASES = {"thin": "the thin base", "same_evidence": "the base of the same evidence", "rich": "the rich base"}
SLICES = {
    "all": "all",
    "warm": "warm items",
    "cold": "cold items",
    "covered": "covered",
    "uncovered": "uncovered",
    "held_out": "held-out items",
}
_PAIRS = (("knowledge", "text"), ("knowledge", "permuted"), ("knowledge", "base"))
_PAIR_TITLES = {
    ("knowledge", "text"): "what the language model adds to the raw text",
    ("knowledge", "permuted"): "what it matters whose knowledge it is",
    ("knowledge", "base"): "what everything beside the ids adds",
}
_ABLATIONS = {
    "user_only": "of the user’s side alone",
    "item_only": "of the item’s side alone",
    "target_only": "none in the history",
    "masked": "names replaced by neutral ones",
    "noise": "random words of the same length",
    "one_gate": "one pool of experts, one gate",
    "mlp": "one shared MLP",
    "linear": "a linear map",
    "random": "a frozen random projection",
}


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
class Test:
    """One pair of arms over all test examples: the row of AUC, and the differences in GAUC and LogLoss (NaN: not measured)."""

    arm_a: str
    arm_b: str
    note: str
    auc: dict[str, Any]
    gauc: float
    logloss: float


@dataclass(frozen=True)
class Backbone:
    """Everything that was measured of one backbone over one base.

    Args:
        lanes: arm → its seeds drawn.
        summary: `pairs` over all examples, on a scale of its own.
        tests: the usual pairs; `ablations` are corrected for their number.
        ablation_count: comparisons of one family of ablations.
        courses: the uplift against the training count.
    """

    name: str
    title: str
    is_published: bool
    arms: list[ArmFigures]
    lanes: dict[str, Markup]
    missing_arms: list[str]
    ticks: list[Tick]
    pairs: list[Pair]
    difference_ticks: list[Tick]
    summary: list[Pair]
    summary_ticks: list[Tick]
    tests: list[Test]
    ablations: list[Test]
    ablation_count: int
    courses: list[Course]
    fits: list[Fit]
    uses: list[ViewUse]
    studies: list[ArmStudy]
    example_count: int
    user_count: int
    seed_count: int

    def auc(self, arm: str) -> float:
        """Mean test AUC of an arm; NaN: it was not trained."""
        return next((of.metrics["auc"].mean for of in self.arms if of.arm == arm), math.nan)

    @property
    def improvement(self) -> float:
        """RelaImpr of the knowledge arm; NaN: not measured."""
        return next((of.relative_improvement for of in self.arms if of.arm == "knowledge"), math.nan)

    def over(self, arm: str) -> dict[str, Any] | None:
        """Knowledge less that arm in test AUC over all examples."""
        return next((test.auc for test in self.tests if (test.arm_a, test.arm_b) == ("knowledge", arm)), None)


def backbones(facts: Facts) -> list[Backbone]:
    """Every base and backbone with a metric or a comparison, the published one first."""
    tables = (facts.metric, facts.comparison, facts.calibration, facts.gate_weight, facts.view_use, facts.study)
    rows = [table.to_pylist() for table in tables]
    published = (facts.ran_with("adaptor", "adaptor", "published_base"), facts.ran_with("adaptor", "adaptor", "published_backbone"))
    return [
        _backbone(name, name == published, *(figures.of(of_table, name) for of_table in rows))
        for name in figures.names([*rows[0], *rows[1]], published)
    ]


def title(base: str, backbone: str) -> str:
    """A ranker and its base in words."""
    return f"{TITLES.get(backbone, backbone)} over {BASES.get(base, base)}"


def _backbone(
    name: tuple[str, str],
    is_published: bool,
    metrics: list[dict[str, Any]],
    comparisons: list[dict[str, Any]],
    calibration: list[dict[str, Any]],
    gate_weights: list[dict[str, Any]],
    view_uses: list[dict[str, Any]],
    trials: list[dict[str, Any]],
) -> Backbone:
    over_all = [row for row in metrics if (row["split"], row["slice"]) == ("test", "all")]
    arms = figures.arms(metrics)
    scale = scale_of([auc for arm in arms for auc in arm.aucs])
    drawn = [row for row in comparisons if row["metric"] == "auc" and (row["arm_a"], row["arm_b"]) in _PAIRS and row["slice"] in SLICES]
    over_slices = _difference_scale(drawn)
    main = [row for row in drawn if row["slice"] == "all"]
    over_main = _difference_scale(main)
    tests = _tests(comparisons)
    return Backbone(
        name="-".join(name),
        title=title(*name),
        is_published=is_published,
        arms=arms,
        lanes={arm.arm: seeds(scale, arm.aucs, arm.arm if arm.arm in ARMS else "other") for arm in arms},
        missing_arms=[arm for arm in ARMS if arm not in {found.arm for found in arms}],
        ticks=scale.ticks(),
        pairs=_pairs(drawn, over_slices),
        difference_ticks=over_slices.ticks(7, is_signed=True),
        summary=_pairs(main, over_main),
        summary_ticks=over_main.ticks(7, is_signed=True),
        tests=[test for test in tests if test.auc["family"] != "ablations"],
        ablations=[test for test in tests if test.auc["family"] == "ablations"],
        ablation_count=max((test.auc["family_count"] for test in tests), default=0),
        courses=courses(comparisons, _PAIRS),
        fits=fits(calibration, arms),
        uses=views(gate_weights, view_uses),
        studies=studies(trials),
        example_count=max((row["example_count"] for row in over_all), default=0),
        user_count=max((row["user_count"] for row in over_all), default=0),
        seed_count=max((arm.seed_count for arm in arms), default=0),
    )


def _tests(comparisons: list[dict[str, Any]]) -> list[Test]:
    return [
        Test(
            *pair,
            note=_note(*pair),
            auc=by_metric["auc"],
            gauc=by_metric["gauc"]["difference"] if "gauc" in by_metric else math.nan,
            logloss=by_metric["logloss"]["difference"] if "logloss" in by_metric else math.nan,
        )
        for pair, by_metric in figures.over_all(comparisons).items()
        if "auc" in by_metric
    ]


def _note(arm_a: str, arm_b: str) -> str:
    """What an ablation is."""
    arm = arm_b if arm_a == "knowledge" else arm_a
    if not arm.startswith("without:"):
        return _ABLATIONS.get(arm, "")
    left_out = arm.removeprefix("without:")
    return f"without the {'view' if '.' in left_out else 'factor'} {left_out}"


def _pairs(rows: list[dict[str, Any]], scale: Scale) -> list[Pair]:
    pairs = []
    for arm_a, arm_b in _PAIRS:
        mine = sorted((r for r in rows if (r["arm_a"], r["arm_b"]) == (arm_a, arm_b)), key=lambda row: list(SLICES).index(row["slice"]))
        if mine:
            pairs.append(Pair(arm_a, arm_b, _PAIR_TITLES[arm_a, arm_b], [_difference(row, scale) for row in mine]))
    return pairs


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
