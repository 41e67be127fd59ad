"""Judge the arms: metrics of every split and seed, and paired comparisons over users.

Shape suffixes, this file only:  F pairs to be found · L users of splits · M metrics · R resamples
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from kar.metrics import Bootstrap
from kar.model.retrieval.splits import Int64, Pairs, Split
from kar.model.retrieval.train import Trained
from kar.rank_metrics import AT, FOUND, Float, found_at, resampled_means

PAIRS = (
    ("all", "original"),
    ("all", "permuted"),
    ("all", "noise"),
    ("all", "id"),
    ("enriched", "original"),
    ("original", "id"),
    ("original", "popularity"),
    ("id", "popularity"),
)
"""Besides each view against the original."""
Row = dict[str, Any]


@dataclass(frozen=True)
class Judged:
    """One arm on one split with one seed.

    Args:
        users: codes of those who have something to find.
        value_LM: their metrics, columns as `FOUND`.
        is_single: whether each of them has exactly one item to find.
    """

    arm: str
    split: Split
    seed: int
    users: Int64
    value_LM: Float
    is_single: bool
    trained: Trained

    @classmethod
    def of(cls, arm: str, pairs: Pairs, split: Split, seed: int, trained: Trained) -> Judged:
        users, relevant_L, value_LM = found_at(trained.rank_F, pairs.user_P[split.test_P], AT)
        return cls(arm, split, seed, users, value_LM, bool((relevant_L == 1).all()), trained)


def metric_rows(found: Iterable[Judged], marked: set[tuple[str, str]]) -> list[Row]:
    """Rows of the table retrieval_metric. `marked`: (protocol, arm) whose texts have seen what is asked."""
    return [
        {
            "protocol": one.split.protocol,
            "arm": one.arm,
            "split": one.split.number,
            "seed": one.seed,
            "metric": metric,
            "value": float(value),
            "user_count": len(one.users),
            "has_seen": (one.split.protocol, one.arm) in marked,
        }
        for one in found
        for metric, value in zip(FOUND, one.value_LM.mean(axis=0), strict=True)
        if not (one.is_single and metric == FOUND[0])
    ]


def comparison_rows(found: list[Judged], marked: set[tuple[str, str]], resamples: int) -> list[Row]:
    """Rows of the table retrieval_comparison: seeds averaged; users resampled, each with all splits, the same draws for all arms.

    The random splits of a user share most of their items, so they are no independent trials: users are what is drawn.
    """
    rows: list[Row] = []
    for protocol in dict.fromkeys(one.split.protocol for one in found):
        of_arm: dict[str, list[Judged]] = {}
        for one in found:
            if one.split.protocol == protocol:
                of_arm.setdefault(one.arm, []).append(one)
        drawn_RM = {arm: _drawn(judged, resamples) for arm, judged in of_arm.items()}
        views = [(arm, "original") for arm in of_arm if arm.startswith("item.")]
        is_single = all(one.is_single for judged in of_arm.values() for one in judged)
        for arm_a, arm_b in [*PAIRS, *views]:
            if arm_a not in drawn_RM or arm_b not in drawn_RM:
                continue
            for column, metric in enumerate(FOUND):
                if is_single and column == 0:
                    continue
                interval = Bootstrap.difference(drawn_RM[arm_a][:, column], drawn_RM[arm_b][:, column])
                rows.append(
                    {
                        "protocol": protocol,
                        "arm_a": arm_a,
                        "arm_b": arm_b,
                        "metric": metric,
                        "difference": interval.difference,
                        "low": interval.low,
                        "high": interval.high,
                        "split_count": len({one.split.number for one in of_arm[arm_a]}),
                        "seed_count": len({one.seed for one in of_arm[arm_a]}),
                        "user_count": len(np.unique(np.concatenate([one.users for one in of_arm[arm_a]]))),
                        "resamples": resamples,
                        "has_seen": bool({(protocol, arm_a), (protocol, arm_b)} & marked),
                    }
                )
    return rows


def _drawn(judged: list[Judged], resamples: int) -> Float:
    """[R + 1, M] an arm's resampled means over the users of all splits, seeds averaged."""
    users, values = [], []
    for number in dict.fromkeys(one.split.number for one in judged):
        of_split = [one for one in judged if one.split.number == number]
        users.append(of_split[0].users)
        values.append(np.mean([one.value_LM for one in of_split], axis=0))
    return resampled_means(np.concatenate(users), np.concatenate(values), resamples)
