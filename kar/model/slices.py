"""Slices of the examples: where an uplift comes from. Counts are of training examples; a target that was never trained on has 0."""

from __future__ import annotations

import numpy as np

from kar.model.batches import Bool, TrainingData
from kar.model.vocabulary import Int64

NAMED = ("all", "warm", "cold", "covered", "uncovered")
HELD_OUT = "held_out"
COUNTS: tuple[tuple[int, float], ...] = ((0, 0), (1, 5), (6, 20), (21, 100), (101, float("inf")))
_FEW = ("all", "warm", "cold", HELD_OUT)


def slices(data: TrainingData, covered_E: Bool, cold_count: int) -> dict[str, Bool]:
    """Slice → which examples belong to it. The `NAMED` are always there; the others where they hold some of the test examples, not all.

    cold: the target item has fewer than `cold_count` training examples; warm: the others.
    covered: every side with views has knowledge of the subject that may serve the example; uncovered: the others.
    held_out: the target item is kept out of training (examples.held_out_items).
    item:1-5, user:0, …: the target item, or the user, has so many training examples.
    """
    is_cold = data.train_count_E < cold_count
    found = {"all": np.ones(len(is_cold), bool), "warm": ~is_cold, "cold": is_cold, "covered": covered_E, "uncovered": ~covered_E}
    of_user = data.train_count_U[data.user_E]
    parts = {HELD_OUT: data.is_held_out_I[data.item_E]} | _by_count("item", data.train_count_E) | _by_count("user", of_user)
    test = data.split_rows["test"]
    return found | {name: member for name, member in parts.items() if 0 < member[test].sum() < len(test)}


def _by_count(side: str, count_E: Int64) -> dict[str, Bool]:
    return {f"{side}:{_range(low, high)}": (count_E >= low) & (count_E <= high) for low, high in COUNTS}


def _range(low: int, high: float) -> str:
    """0, 1-5, 101+"""
    if high == float("inf"):
        return f"{low}+"
    return str(low) if low == high else f"{low}-{high:.0f}"


def is_by_count(name: str) -> bool:
    return ":" in name


def tells_ablations(name: str) -> bool:
    """Whether ablation arms are compared on it: on few slices, for there are many arms."""
    return name in _FEW
