"""How it was measured: labels, splits, the leak check, training curves, and what the encoder cut."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from markupsafe import Markup

from kar.page.arms import title
from kar.page.facts import Facts
from kar.page.figures import ARMS
from kar.page.marks import Scale, bars, curves, scale_of
from kar.page.numbers import count, fixed, share

_SPLITS = ("train", "valid", "test")
_BINS = 24


@dataclass(frozen=True)
class Split:
    """One split; shares from 0 to 1."""

    name: str
    example_count: int
    user_count: int
    label_mean: float
    user_covered_share: float
    item_covered_share: float


@dataclass(frozen=True)
class LeakCheck:
    """What the examples stage found.

    Args:
        excluded: reason → examples left out because a text had seen them.
        fault_count: labelled events that our own prompts had seen; 0 unless settings allow some. None: not recorded.
    """

    excluded: dict[str, int]
    fault_count: int | None


@dataclass(frozen=True)
class Curve:
    """Valid AUC by epoch of one backbone and arm."""

    arm: str
    plot: Markup
    epoch_count: int
    best: float


@dataclass(frozen=True)
class Training:
    """The curves of one backbone, all on one scale from `low` to `high`; NaN where no epoch has an AUC."""

    title: str
    low: float
    high: float
    curves: list[Curve]


@dataclass(frozen=True)
class Encoded:
    """Texts of one view as the encoder saw them."""

    view: str
    text_count: int
    truncated_share: float
    median_tokens: float
    most_tokens: int
    limit: int | None
    plot: Markup


def splits(facts: Facts) -> list[Split]:
    """Size, label mean and coverage of each split."""
    if facts.example.num_rows == 0:
        return []
    table = facts.example.group_by("split").aggregate(
        [
            ([], "count_all"),
            ("user_id", "count_distinct"),
            ("label", "mean"),
            ("has_user_knowledge", "mean"),
            ("has_item_knowledge", "mean"),
        ]
    )
    rows = {row["split"]: row for row in table.to_pylist()}
    return [
        Split(
            name,
            rows[name]["count_all"],
            rows[name]["user_id_count_distinct"],
            rows[name]["label_mean"],
            rows[name]["has_user_knowledge_mean"],
            rows[name]["has_item_knowledge_mean"],
        )
        for name in _SPLITS
        if name in rows
    ]


def leak_check(facts: Facts) -> LeakCheck:
    """The result of the leak check, as the examples stage recorded it."""
    manifest = facts.manifests.get("examples")
    excluded = {r: n for r, n in (manifest.rejected if manifest else {}).items() if r in ("in_evidence", "before_evidence")}
    leaks = facts.figure("examples", "leaks")
    if isinstance(leaks, int):
        return LeakCheck(excluded, leaks)
    if isinstance(leaks, list):
        return LeakCheck(excluded, sum(int(row.get("fault_count") or 0) for row in leaks if isinstance(row, dict)))
    return LeakCheck(excluded, None)


def training(facts: Facts) -> list[Training]:
    """Every backbone that has epochs, the published one first."""
    published = tuple(facts.ran_with("adaptor", "adaptor", f"published_{what}") for what in ("base", "backbone"))
    runs: dict[tuple[str, str], dict[str, dict[int, list[dict[str, Any]]]]] = defaultdict(lambda: defaultdict(lambda: defaultdict(list)))
    for row in facts.epoch.to_pylist():
        runs[row["base"], row["backbone"]][row["arm"]][row["seed"]].append(row)
    return [_training(title(*name), runs[name]) for name in sorted(runs, key=lambda n: (n != published, n))]


def _training(named: str, arms: dict[str, dict[int, list[dict[str, Any]]]]) -> Training:
    values = [row["valid_auc"] for seeds in arms.values() for rows in seeds.values() for row in rows]
    finite = [v for v in values if math.isfinite(v)]
    scale = scale_of(finite)
    names = [arm for arm in ARMS if arm in arms] + sorted(set(arms) - set(ARMS))
    return Training(named, min(finite, default=math.nan), max(finite, default=math.nan), [_curve(arm, arms[arm], scale) for arm in names])


def _curve(arm: str, seeds: dict[int, list[dict[str, Any]]], scale: Scale) -> Curve:
    ordered = [sorted(rows, key=lambda r: r["epoch"]) for _, rows in sorted(seeds.items())]
    lines = [[row["valid_auc"] for row in rows] for rows in ordered]
    kept = [next((i for i, row in enumerate(rows) if row["is_chosen"]), None) for rows in ordered]
    best = max((v for line in lines for v in line if math.isfinite(v)), default=math.nan)
    epochs = max(len(line) for line in lines)
    label = f"{arm}: AUC on the valid examples over {epochs} epochs, {len(lines)} seeds, best {fixed(best)}"
    plot = curves(lines, kept, scale, arm if arm in ARMS else "other", label)
    return Curve(arm, plot, epochs, best)


def encoded(facts: Facts) -> list[Encoded]:
    """Per view, how long the texts are and how many the encoder cut. Raw views belong to the text arm."""
    table = facts.knowledge_vector
    names = pc.unique(table.column("view")).to_pylist()
    return [_encoded(view, table.filter(pc.equal(table.column("view"), view))) for view in sorted(names)]


def _encoded(view: str, table: pa.Table) -> Encoded:
    tokens = table.column("n_tokens").to_numpy()
    cut = np.asarray(table.column("truncated").to_pylist(), dtype=bool)
    # the limit is not recorded: it lies between the longest text that was kept whole and the shortest that was cut
    limit = int(tokens[cut].min()) - 1 if cut.any() else None
    most = int(tokens.max())
    width = max(1, math.ceil((most + 1) / _BINS))
    counts = np.bincount(tokens // width, minlength=_BINS)
    label = f"{view}: tokens per text, median {count(float(np.median(tokens)))}, most {count(most)}, {share(float(cut.mean()))} cut"
    first_cut = None if limit is None else (limit + 1) // width
    plot = bars((counts / counts.max()).tolist(), first_cut, label)
    return Encoded(view, table.num_rows, float(cut.mean()), float(np.median(tokens)), most, limit, plot)
