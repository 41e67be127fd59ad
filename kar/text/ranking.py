"""Which of tonight's due subjects are asked: rank by value, cut at the budgets, with a fair share for each view."""

from __future__ import annotations

import numpy as np

from kar.settings import LLMSettings
from kar.text.views import ViewPlan


def rank_views(views: list[ViewPlan], llm: LLMSettings) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Rank over all views by value (ties by view, then subject), and the cut at the budgets of tokens and money.

    Returns:
        Per view: rank int64 [S] (−1: not asked) and whether it is asked, bool [S].
    """
    if not views:
        return [], []
    fits = np.concatenate([v.prompts.fits for v in views])
    value = np.concatenate([v.value for v in views])
    cost = np.concatenate([np.stack([v.tokens, usd_costs(v, llm)], axis=1) for v in views])
    budget = np.array([np.inf if most is None else most for most in (llm.token_budget, llm.usd_budget)])
    view = np.repeat(np.arange(len(views)), [len(v.subjects) for v in views])
    subject = np.array([s for v in views for s in v.subjects], object).astype(str)
    order = np.lexsort((subject, np.array([v.view for v in views])[view], -value))
    order = order[fits[order]]
    asked = np.zeros(len(value), bool)
    due_views = np.unique(view[order])
    for one in due_views:
        own = order[view[order] == one]
        asked[own[_within(cost[own], budget / len(due_views))]] = True
    rest = order[~asked[order]]
    asked[rest[_within(cost[rest], budget - cost[asked].sum(axis=0))]] = True
    rank = np.full(len(value), -1, np.int64)
    rank[order[asked[order]]] = np.arange(int(asked.sum()))
    ends = np.cumsum([len(v.subjects) for v in views])[:-1]
    return np.split(rank, ends), np.split(asked, ends)


def _within(cost: np.ndarray, budget: np.ndarray) -> np.ndarray:
    """bool [N]: the first rows whose summed costs [N, 2] pass neither budget."""
    within: np.ndarray = np.all(cost.cumsum(axis=0) <= budget, axis=1)
    return within


def usd_costs(view: ViewPlan, llm: LLMSettings) -> np.ndarray:
    """float64 [S]: what each prompt and its longest answer would cost."""
    answer = view.template.output.max_tokens * llm.price().completion
    usd: np.ndarray = (view.prompts.prompt_tokens * llm.price().prompt + answer) / 1e6
    return usd
