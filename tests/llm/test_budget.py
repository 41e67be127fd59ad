"""The budget: checked before each call, reservations counted, settled with what was spent."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kar.llm.budget import Budget, Planned, Reservation, rest, share_of
from kar.settings import LLMSettings


class Clock:
    now = 5.0

    def __call__(self) -> float:
        return self.now


def test_reservations_in_flight_count_until_they_are_settled() -> None:
    budget = Budget(token_limit=100)
    first = budget.reserve(40, 20)
    assert isinstance(first, Reservation)
    assert budget.reserve(30, 20) == "token_budget"
    budget.spend(40, 5)
    budget.settle(first)
    assert isinstance(budget.reserve(30, 20), Reservation)


def test_money_is_counted_at_the_prices_of_the_settings() -> None:
    prices = {"usd_per_million_prompt_tokens": 2.0, "usd_per_million_completion_tokens": 10.0}
    budget = Budget.of(LLMSettings.model_validate({"usd_budget": 0.01, **prices}))
    assert budget.reserve(0, 1_001) == "usd_budget"
    assert isinstance(budget.reserve(0, 1_000), Reservation)
    budget.spend(1_000, 100)
    assert budget.usd == 0.003


def test_the_price_table_goes_before_the_single_prices_and_its_first_fit_counts() -> None:
    prices = {"big-1": {"prompt": 5.0}, "big-*": {"prompt": 3.0, "cached": 1.0, "completion": 9.0}}
    single = {"usd_per_million_prompt_tokens": 2.0, "usd_per_million_completion_tokens": 10.0, "prices": prices}
    found = {name: LLMSettings.model_validate({"model": name, **single}).price() for name in ("big-1", "big-2", "small")}
    assert {name: (p.prompt, p.cached, p.completion) for name, p in found.items()} == {
        "big-1": (5.0, None, 0.0),
        "big-2": (3.0, 1.0, 9.0),
        "small": (2.0, None, 10.0),
    }


def test_cached_tokens_have_a_price_of_their_own() -> None:
    budget = Budget.of(LLMSettings.model_validate({"model": "m", "prices": {"m": {"prompt": 4.0, "cached": 1.0, "completion": 10.0}}}))
    budget.spend(1_000_000, 100_000, 600_000)
    assert budget.usd == pytest.approx(0.4 * 4 + 0.6 * 1 + 0.1 * 10)
    dearer = Budget.of(LLMSettings.model_validate({"model": "m", "prices": {"m": {"prompt": 4.0}}}))
    dearer.spend(1_000_000, 0, 600_000)
    assert dearer.usd == pytest.approx(4)


def test_the_deadline_runs_from_the_start() -> None:
    clock = Clock()
    budget = Budget(deadline_s=10, clock=clock)
    assert budget.seconds_left() == 10
    clock.now += 10
    assert budget.seconds_left() == 0
    assert budget.reserve(1, 1) == "deadline"


def test_without_limits_everything_may_be_spent() -> None:
    budget = Budget()
    assert budget.seconds_left() is None
    assert isinstance(budget.reserve(10**9, 10**9), Reservation)


@given(st.integers(0, 500), st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60), st.floats(0, 1), st.booleans()), max_size=60))
def test_for_all_orders_of_calls_no_more_is_spent_than_the_limit(limit: int, calls: list[tuple[int, int, float, bool]]) -> None:
    """Each call reserves, ends at once or later, and uses no more than it reserved."""
    budget = Budget(token_limit=limit)
    running: list[tuple[Reservation, int, int]] = []
    for prompt, answer, used, ends_now in calls:
        reservation = budget.reserve(prompt, answer)
        if isinstance(reservation, Reservation):
            running.append((reservation, prompt, int(answer * used)))
        if ends_now and running:
            ended, prompt_used, answer_used = running.pop(0)
            budget.spend(prompt_used, answer_used)
            budget.settle(ended)
        assert budget.prompt_tokens + budget.completion_tokens <= limit
    for ended, prompt_used, answer_used in running:
        budget.spend(prompt_used, answer_used)
        budget.settle(ended)
    assert budget.prompt_tokens + budget.completion_tokens <= limit
    assert budget.open_reservations == 0


# ---- shares of a budget

SIZES = st.lists(st.tuples(st.integers(0, 5_000), st.integers(0, 2_000)), min_size=1, max_size=30)


@given(SIZES, st.integers(0, 10_000_000), st.floats(0, 1e6, allow_nan=False), st.floats(0, 100), st.floats(0, 100))
def test_the_shares_of_a_budget_are_never_more_than_the_budget(
    sizes: list[tuple[int, int]], tokens: int, usd: float, prompt_usd: float, answer_usd: float
) -> None:
    settings = LLMSettings(
        token_budget=tokens, usd_budget=usd, usd_per_million_prompt_tokens=prompt_usd, usd_per_million_completion_tokens=answer_usd
    )
    parts = [Planned(*size) for size in sizes]
    whole = Planned(sum(p.prompt_tokens for p in parts), sum(p.answer_tokens for p in parts))
    shares = [share_of(settings, part, whole) for part in parts]
    assert sum(share.token_budget or 0 for share in shares) <= tokens
    assert sum(Fraction(share.usd_budget or 0.0) for share in shares) <= Fraction(usd)
    assert share_of(settings, whole, whole).token_budget == (tokens if whole.tokens else 0)
    assert share_of(settings, whole, whole).usd_budget in (usd, 0.0)


def test_a_share_is_as_large_as_its_part_of_the_plan_in_tokens_and_in_what_they_cost() -> None:
    settings = LLMSettings(token_budget=1000, usd_budget=8.0, usd_per_million_completion_tokens=2.0)
    share = share_of(settings, Planned(300, 100), Planned(1400, 200))
    assert (share.token_budget, share.usd_budget) == (250, 4.0)
    free = share_of(LLMSettings(usd_budget=8.0), Planned(300, 100), Planned(1400, 200))
    assert (free.token_budget, free.usd_budget) == (None, 2.0)


def test_what_was_spent_is_taken_off_and_nothing_is_less_than_none() -> None:
    settings = LLMSettings(token_budget=1000, usd_budget=8.0)
    left = rest(settings, 400, 2.5)
    assert (left.token_budget, left.usd_budget) == (600, 5.5)
    assert (rest(settings, 2000, 9.0).token_budget, rest(settings, 2000, 9.0).usd_budget) == (0, 0.0)
    assert rest(LLMSettings(), 5, 5.0) == LLMSettings()
