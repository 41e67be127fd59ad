"""Which of tonight's due subjects are asked, and in which order: rank by value, cut at the budgets, a fair share for each view.

Shape suffixes: N the candidates: due subjects of all views whose prompts may be sent
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kar.settings import LLMSettings, PromptsSettings


@dataclass(frozen=True)
class Candidates:
    """Who may be asked.

    Args:
        view: int64 [N], the view's number.
        family: int64 [N], what shares its beginning: the template's number.
        position: int64 [N], the row's place in the plan: by view, then subject. Settles ties.
        value: float64 [N], expected value per token.
        prompt_tokens, answer_tokens: int64 [N].
    """

    view: np.ndarray
    family: np.ndarray
    position: np.ndarray
    value: np.ndarray
    prompt_tokens: np.ndarray
    answer_tokens: np.ndarray

    @property
    def tokens(self) -> np.ndarray:
        tokens: np.ndarray = self.prompt_tokens + self.answer_tokens
        return tokens


def rank(candidates: Candidates, llm: LLMSettings, prompts: PromptsSettings) -> np.ndarray:
    """The cut at the budgets of tokens and money by value, then the order of sending.

    Returns:
        int64 [N]: 0 is asked first; −1: not asked.
    """
    order = np.lexsort((candidates.position, -candidates.value))
    cost = np.stack([candidates.tokens, usd_costs(candidates.prompt_tokens, candidates.answer_tokens, llm)], axis=1)
    budget = np.array([np.inf if most is None else most for most in (llm.token_budget, llm.usd_budget)])
    is_asked = np.zeros(len(order), bool)
    due_views = np.unique(candidates.view)
    for one in due_views:
        own = order[candidates.view[order] == one]
        is_asked[own[_within(cost[own], budget / len(due_views))]] = True
    rest = order[~is_asked[order]]
    is_asked[rest[_within(cost[rest], budget - cost[is_asked].sum(axis=0))]] = True
    asked = order[is_asked[order]]
    if prompts.order == "prefix":
        asked = _by_prefix(asked, candidates, prompts.value_bands)
    ranks = np.full(len(order), -1, np.int64)
    ranks[asked] = np.arange(len(asked))
    return ranks


def usd_costs(prompt_tokens: np.ndarray, answer_tokens: np.ndarray, llm: LLMSettings) -> np.ndarray:
    """float64: what prompts and their longest answers would cost."""
    usd: np.ndarray = llm.price().usd(prompt_tokens, answer_tokens)
    return usd


def _within(cost: np.ndarray, budget: np.ndarray) -> np.ndarray:
    """bool [N]: the first rows whose summed costs [N, 2] pass neither budget."""
    within: np.ndarray = np.all(cost.cumsum(axis=0) <= budget, axis=1)
    return within


def _by_prefix(asked: np.ndarray, candidates: Candidates, bands: int) -> np.ndarray:
    """By value in bands of equally many, so that a deadline cuts the least valuable; in a band family by family, longest first.

    Args:
        asked: places of those who are asked, most valuable first.
    """
    band = np.arange(len(asked)) * bands // max(len(asked), 1)
    within = np.lexsort((np.arange(len(asked)), -candidates.prompt_tokens[asked], candidates.family[asked], band))
    by_prefix: np.ndarray = asked[within]
    return by_prefix
