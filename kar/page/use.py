"""What the ranker does with the knowledge: which experts its gates choose, and what it would lose without each view."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from kar.page.marks import stack
from kar.page.numbers import share

PLACES = ("everywhere", "target", "history")


@dataclass(frozen=True)
class ViewUse:
    """One view, of the knowledge arm's best seed; measured on valid.

    Args:
        drops: AUC lost without the view, in the order of `PLACES`; NaN: not measured there.
        lane: the gate's weights, shared experts first; empty where the form has no gate.
        shared_share: of the weights, the shared experts'; NaN without a gate.
    """

    view: str
    subject_count: int
    drops: list[float]
    lane: Markup
    shared_share: float
    experts: str


def views(gate_weights: list[dict[str, Any]], uses: list[dict[str, Any]]) -> list[ViewUse]:
    """Of one base and backbone, users' views first."""
    names = sorted({row["view"] for row in [*gate_weights, *uses]}, key=lambda view: (not view.startswith("user."), view))
    return [_view(name, [g for g in gate_weights if g["view"] == name], [u for u in uses if u["view"] == name]) for name in names]


def _view(view: str, gate_weights: list[dict[str, Any]], uses: list[dict[str, Any]]) -> ViewUse:
    ordered = sorted(gate_weights, key=lambda row: (not row["expert"].startswith("shared"), row["expert"]))
    drops = {row["left_out"]: row["auc_drop"] for row in uses}
    shared = [row["weight"] for row in ordered if row["expert"].startswith("shared")]
    return ViewUse(
        view,
        max((row["subject_count"] for row in [*gate_weights, *uses]), default=0),
        [drops.get(place, math.nan) for place in PLACES],
        stack([(f"expert-{row['expert'].partition(':')[0]}", row["weight"]) for row in ordered], height=14) if ordered else Markup(""),
        sum(shared) if ordered else math.nan,
        ", ".join(f"{row['expert'].replace(':', ' ')} {share(row['weight'])}" for row in ordered),
    )
