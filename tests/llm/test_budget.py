"""The budget: checked before each call, reservations counted, settled with what was spent."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from kar.llm.budget import Budget, Reservation
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
