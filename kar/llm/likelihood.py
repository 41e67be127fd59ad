"""Prompt log-probabilities from a server that has them (vLLM: `prompt_logprobs`), asked and kept as answers are.

For the optional judge of the quality gate: which bodies to send and what to make of the figures is pure arithmetic in
`kar.text.quality.likelihood`. A scoring request is a request like any other: it has a key, goes through gate and budget, is
tried again, and ends as a row of the ledger whose text is the JSON list of the prompt's log-probabilities. So a second run
finds it paid for.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any

import orjson

from kar.llm.ask import Asked, sum_up
from kar.llm.budget import Stop, rest
from kar.llm.ledger import Ledger
from kar.llm.outcome import Outcome, Read, outcome_of
from kar.llm.session import Session, opened
from kar.llm.stream import Request, Stream
from kar.llm.transport import Reply
from kar.settings import LLMSettings
from kar.store import Home

Rows = list[dict[str, Any] | None]  # per prompt token: token id → {"logprob", …}; None for the first
Reduce = Callable[[Rows], list[float]]
_DIGITS = 4


class Scoring:
    """One run's scoring. Made by `scoring`; no server is asked before the first score that the ledger does not hold.

    Args:
        open_session: opens the servers; None: nobody is asked, the ledger's scores are all there are.
    """

    def __init__(self, open_session: Callable[[], Session] | None, ledger: Ledger) -> None:
        self._open, self._ledger = open_session, ledger
        self._session: Session | None = None
        self._from_ledger = 0
        self.stopped_by: Stop = "none"

    @property
    def asks(self) -> bool:
        return self._open is not None

    def score(self, requests: Iterable[Request]) -> dict[str, list[float]]:
        """The log-probabilities of these requests' prompts by key; without those that failed or a limit stopped.

        Raises:
            ServerUnreachable, ServerRefused, ModelChanged, LedgerError. What was scored is in the ledger.
        """
        asked = list(requests)
        stream = Stream(asked, self._ledger, warm_up=False)
        if stream.has_more() and self._open is not None and self.stopped_by == "none":
            self._session = self._session or self._open()
            self.stopped_by = self._session.ask(stream, None)
        self._from_ledger += stream.from_ledger
        found = self._ledger.get_many({request.key for request in asked})
        return {key: _log_probabilities(answer.text) for key, answer in found.items()}

    def why_not(self, request: Request) -> str:
        """What the server said to a request that got no score."""
        rows = self._ledger.find([request.key]).get(request.key, [])
        return rows[-1].detail if rows else "not asked"

    def paid(self) -> Asked:
        """What it took."""
        asked = Asked(stopped_by=self.stopped_by, from_ledger=self._from_ledger)
        if self._session is not None:
            sum_up(asked, self._session, "scored")
        return asked


@contextlib.contextmanager
def scoring(
    settings: LLMSettings, home: Home, revision: str, as_of: dt.datetime, ledger: Ledger, reduce: Reduce, asked: Asked
) -> Iterator[Scoring]:
    """A scoring for as long as the block lasts.

    Args:
        revision: of the model, as in the keys.
        reduce: a reply's `prompt_logprobs` to what is kept of them.
        asked: what the run has spent already; the rest of its budget is left.
    """
    with contextlib.ExitStack() as stack:
        left = rest_of(settings, asked)
        yield Scoring(lambda: stack.enter_context(opened(left, home, revision, as_of, ledger, read=read_of(reduce))), ledger)


def read_of(reduce: Reduce) -> Read:
    """How a scoring request's reply is read. A server that leaves `prompt_logprobs` out refuses for good: it will not be asked again and again."""

    def read(reply: Reply, now: dt.datetime) -> Outcome:
        outcome = outcome_of(reply, now)
        if outcome.parsed is None:
            return outcome
        rows = orjson.loads(reply.content).get("prompt_logprobs")
        if not isinstance(rows, list):
            lost = max(outcome.parsed.prompt_tokens, 0) + max(outcome.parsed.completion_tokens, 0)
            return Outcome("permanent", "200 without prompt_logprobs", lost_tokens=lost)
        text = orjson.dumps([round(value, _DIGITS) for value in reduce(rows)]).decode()
        return replace(outcome, parsed=replace(outcome.parsed, text=text))

    return read


def rest_of(settings: LLMSettings, asked: Asked) -> LLMSettings:
    """The settings with what is left of the run's token budget, money and time."""
    left = rest(settings, asked.prompt_tokens + asked.completion_tokens, asked.usd)
    if settings.deadline_s is None:
        return left
    return left.model_copy(update={"deadline_s": max(0.0, settings.deadline_s - asked.seconds)})


def _log_probabilities(text: str) -> list[float]:
    """As they were kept. JSON knows no infinity: it was written as null."""
    return [-math.inf if value is None else value for value in orjson.loads(text)]
