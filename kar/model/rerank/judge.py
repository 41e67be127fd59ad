"""Judge re-rankings: metrics of every model, arm and seed and of the initial lists, paired comparisons of arms, the tables' rows."""

from __future__ import annotations

from typing import Any

import numpy as np

from kar import rank_metrics
from kar.metrics import Bootstrap
from kar.model.evaluate import MAIN_PAIRS
from kar.model.knowledge import Float32
from kar.model.rerank.candidates import Candidates
from kar.model.rerank.train import Reranked
from kar.rank_metrics import KEYS, Float

FIRST_STAGE = "first_stage"
INITIAL = "initial"
PAIRS = (*MAIN_PAIRS, ("base", FIRST_STAGE))
Row = dict[str, Any]


def of_lists(candidates: Candidates, split: str, score_LN: Float32 | None) -> Float:
    """[lists of the split, metrics] every metric of every list, columns as `rank_metrics.KEYS`.

    Args:
        score_LN: in the initial order; None: the initial order itself.
    """
    rows = candidates.lists.split_rows[split]
    label_LN = candidates.in_order(candidates.lists.label_LN)[rows]
    is_item_LN = candidates.in_order(candidates.lists.is_item_LN)[rows]
    as_it_stands = np.zeros(label_LN.shape, np.float32)
    return rank_metrics.per_list(rank_metrics.ranked(label_LN, as_it_stands if score_LN is None else score_LN, is_item_LN))


def metric_rows(found: list[Reranked], candidates: Candidates) -> list[Row]:
    """Rows of the table rerank_metric."""
    rows: list[Row] = []
    for split in ("valid", "test"):
        rows += _metric_rows(INITIAL, FIRST_STAGE, 0, split, of_lists(candidates, split, None), candidates)
        for done in found:
            score = done.valid_score if split == "valid" else done.test_score
            rows += _metric_rows(done.model, done.arm, done.seed, split, of_lists(candidates, split, score), candidates)
    return rows


def _metric_rows(model: str, arm: str, seed: int, split: str, value_LM: Float, candidates: Candidates) -> list[Row]:
    lists = candidates.lists.split_rows[split]
    users = len(np.unique(candidates.lists.user_L[lists]))
    return [
        {
            "model": model,
            "arm": arm,
            "seed": seed,
            "split": split,
            "metric": metric,
            "k": k,
            "value": value,
            "list_count": len(lists),
            "user_count": users,
        }
        for (metric, k), value in zip(KEYS, value_LM.mean(axis=0).tolist(), strict=True)
    ]


def comparison_rows(found: list[Reranked], candidates: Candidates, resamples: int) -> list[Row]:
    """Rows of the table rerank_comparison, on the test lists: seeds averaged, users resampled, the same draws for all arms."""
    lists = candidates.lists.split_rows["test"]
    user_L = candidates.lists.user_L[lists]
    initial_RM = rank_metrics.resampled_means(user_L, of_lists(candidates, "test", None), resamples)
    rows: list[Row] = []
    for model in dict.fromkeys(done.model for done in found):
        drawn, seeds = {FIRST_STAGE: initial_RM}, {}
        for arm in dict.fromkeys(done.arm for done in found):
            of_seeds = [of_lists(candidates, "test", done.test_score) for done in found if (done.model, done.arm) == (model, arm)]
            seeds[arm] = len(of_seeds)
            drawn[arm] = rank_metrics.resampled_means(user_L, np.mean(of_seeds, axis=0), resamples)
        for arm_a, arm_b in PAIRS:
            if arm_a not in drawn or arm_b not in drawn:
                continue
            for column, (metric, k) in enumerate(KEYS):
                interval = Bootstrap.difference(drawn[arm_a][:, column], drawn[arm_b][:, column])
                rows.append(
                    {
                        "model": model,
                        "arm_a": arm_a,
                        "arm_b": arm_b,
                        "metric": metric,
                        "k": k,
                        "difference": interval.difference,
                        "low": interval.low,
                        "high": interval.high,
                        "seed_count": seeds[arm_a],
                        "user_count": len(np.unique(user_L)),
                        "resamples": resamples,
                    }
                )
    return rows
