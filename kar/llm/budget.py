"""What a run may spend: tokens, money, time. Asked before every call; reaching an end is a success, not a failure.

A call reserves the most it can cost (prompt estimate + longest answer); when it ends, what it did cost takes the
reservation's place. So the sum can pass a limit only by the error of a prompt estimate.

Several processes that ask shares of one plan have shares of its budget (`share_of`), and what was spent before is taken off (`rest`).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal

from kar.settings import LLMSettings

Stop = Literal["none", "token_budget", "usd_budget", "deadline"]


@dataclass(frozen=True, slots=True)
class Reservation:
    """Tokens set aside for one call."""

    prompt_tokens: int
    answer_tokens: int


class Budget:
    """The limits of one run and what is spent of them.

    Args:
        token_limit: prompt + answer tokens; None: no limit.
        usd_limit: US dollars; None: no limit.
        deadline_s: seconds from now; None: no limit.
        usd_per_million_prompt_tokens, usd_per_million_completion_tokens: the prices.
        usd_per_million_cached_tokens: of prompt tokens that the server had in its cache; None: the price of the others.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        token_limit: int | None = None,
        usd_limit: float | None = None,
        deadline_s: float | None = None,
        usd_per_million_prompt_tokens: float = 0.0,
        usd_per_million_completion_tokens: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
        *,
        usd_per_million_cached_tokens: float | None = None,
    ) -> None:
        self._token_limit, self._usd_limit = token_limit, usd_limit
        self._prompt_usd = usd_per_million_prompt_tokens / 1e6
        self._completion_usd = usd_per_million_completion_tokens / 1e6
        cached = usd_per_million_prompt_tokens if usd_per_million_cached_tokens is None else usd_per_million_cached_tokens
        self._cached_discount_usd = self._prompt_usd - cached / 1e6
        self._clock = clock
        self._ends_at = None if deadline_s is None else clock() + deadline_s
        self.prompt_tokens = 0
        self.completion_tokens = 0
        self.cached_tokens = 0
        self._reserved_prompt = 0
        self._reserved_answer = 0
        self.open_reservations = 0

    @classmethod
    def of(cls, settings: LLMSettings, clock: Callable[[], float] = time.monotonic) -> Budget:
        """The budget of the settings, at the prices of their model."""
        price = settings.price()
        return cls(
            settings.token_budget,
            settings.usd_budget,
            settings.deadline_s,
            price.prompt,
            price.completion,
            clock,
            usd_per_million_cached_tokens=price.cached,
        )

    @property
    def usd(self) -> float:
        """Money spent so far."""
        return self._cost(self.prompt_tokens, self.completion_tokens)

    def seconds_left(self) -> float | None:
        """Until the deadline, never negative; None: there is none."""
        return None if self._ends_at is None else max(0.0, self._ends_at - self._clock())

    def reserve(self, prompt_tokens: int, answer_tokens: int) -> Reservation | Stop:
        """Set tokens aside for a call, or say which limit forbids it.

        Args:
            prompt_tokens: estimate.
            answer_tokens: the most the answer may take.
        """
        if self.seconds_left() == 0:
            return "deadline"
        prompt = self.prompt_tokens + self._reserved_prompt + prompt_tokens
        answer = self.completion_tokens + self._reserved_answer + answer_tokens
        if self._token_limit is not None and prompt + answer > self._token_limit:
            return "token_budget"
        if self._usd_limit is not None and self._cost(prompt, answer) > self._usd_limit:
            return "usd_budget"
        self._reserved_prompt += prompt_tokens
        self._reserved_answer += answer_tokens
        self.open_reservations += 1
        return Reservation(prompt_tokens, answer_tokens)

    def settle(self, reservation: Reservation) -> None:
        """End a reservation. What the call cost was told to `spend` meanwhile."""
        self._reserved_prompt -= reservation.prompt_tokens
        self._reserved_answer -= reservation.answer_tokens
        self.open_reservations -= 1

    def spend(self, prompt_tokens: int, completion_tokens: int, cached_tokens: int = 0) -> None:
        """Count what an attempt cost, a failed one too. `cached_tokens` of the prompt tokens were in the server's cache."""
        self.cached_tokens += min(cached_tokens, prompt_tokens)
        self.prompt_tokens += prompt_tokens
        self.completion_tokens += completion_tokens

    def _cost(self, prompt_tokens: int, completion_tokens: int) -> float:
        """Of so many tokens, those that came from the cache so far among them."""
        full = prompt_tokens * self._prompt_usd + completion_tokens * self._completion_usd
        return full - self.cached_tokens * self._cached_discount_usd


@dataclass(frozen=True, slots=True)
class Planned:
    """What some requests take at most, as they were planned."""

    prompt_tokens: int = 0
    answer_tokens: int = 0

    @property
    def tokens(self) -> int:
        return self.prompt_tokens + self.answer_tokens


def share_of(settings: LLMSettings, part: Planned, whole: Planned) -> LLMSettings:
    """The settings with a part's share of the tokens and, by what it costs as planned, of the money.

    Shares are rounded down: those of all parts together are never more than the budget.
    """
    share: dict[str, Any] = {}
    if settings.token_budget is not None:
        share["token_budget"] = settings.token_budget * part.tokens // max(whole.tokens, 1)
    if settings.usd_budget is not None:
        price = settings.price()
        prompt, answer = Fraction(price.prompt), Fraction(price.completion)
        if not (prompt or answer):
            prompt = answer = Fraction(1)
        own, all_of_it = (prompt * p.prompt_tokens + answer * p.answer_tokens for p in (part, whole))
        share["usd_budget"] = _rounded_down(Fraction(settings.usd_budget) * own / (all_of_it or 1))
    return settings.model_copy(update=share)


def rest(settings: LLMSettings, tokens: int, usd: float) -> LLMSettings:
    """The settings with what is left of the token and the money budget after so much was spent."""
    left: dict[str, Any] = {}
    if settings.token_budget is not None:
        left["token_budget"] = max(0, settings.token_budget - tokens)
    if settings.usd_budget is not None:
        left["usd_budget"] = max(0.0, settings.usd_budget - usd)
    return settings.model_copy(update=left)


def _rounded_down(value: Fraction) -> float:
    nearest = float(value)
    return nearest if Fraction(nearest) <= value else math.nextafter(nearest, 0.0)
