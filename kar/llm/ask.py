"""Ask for a list of requests: what the ledger holds is not asked again, and without a question no server is started."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import os
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from kar import log
from kar.errors import LLMError
from kar.llm import local
from kar.llm.budget import Budget, Stop
from kar.llm.client import Client, Request
from kar.llm.gate import Gate
from kar.llm.key import body_bytes
from kar.llm.ledger import Answer, Ledger
from kar.llm.outcome import outcome_of
from kar.llm.transport import TransportFault, transport_for
from kar.settings import LLMSettings
from kar.store import Home

Retry = Callable[[Request, Answer], Request | None]


@dataclass
class Asked:
    """What came of the asking.

    Args:
        ends: request key → its outcome, good or failed; a key without one was not asked (see `stopped_by`).
        retries: first request's key → the second request's key, for answers that were asked for once more.
        from_ledger: good answers that were already paid for.
        calls: what the server saw, failed attempts and push-backs included.
        prompt_tokens, completion_tokens, lost_tokens, usd: of this run's calls.
        seconds: of asking, the start of a local server not included.
    """

    ends: dict[str, Answer] = field(default_factory=dict)
    retries: dict[str, str] = field(default_factory=dict)
    retried: int = 0
    pace: list[Any] = field(default_factory=list)
    stopped_by: Stop = "none"
    from_ledger: int = 0
    calls: int = 0
    answered: int = 0
    pushed_back: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    lost_tokens: int = 0
    usd: float = 0.0
    seconds: float = 0.0
    server_start_seconds: float = 0.0


def ask(requests: Iterable[Request], settings: LLMSettings, home: Home, revision: str, as_of: dt.datetime, retry: Retry) -> Asked:
    """Ask the requests in order, then once more those for which `retry` gives another request.

    The second round comes last, so that a budget goes to subjects without an answer first.

    Args:
        requests: most valuable first; equal keys are asked once.
        settings: model, address, budget.
        home: holds the ledger and the local models.
        revision: of the model, as in the keys.
        as_of: the run's clock, kept with each answer.
        retry: given a request and its good answer, the request to ask instead, or None.

    Raises:
        ServerUnreachable, ServerRefused, ServerStartFailed, LedgerError, AlreadyRunning. What was answered is kept.
    """
    asked, requests = Asked(), list(requests)
    with Ledger.open(home.ledger) as ledger, contextlib.ExitStack() as stack:
        rounds = _Rounds(settings, home, revision, as_of, ledger, stack, asked)
        rounds.run(requests)
        seconds_asked: list[Request] = []
        for request in {r.key: r for r in requests}.values():
            answer = asked.ends.get(request.key)
            again = retry(request, answer) if answer is not None and answer.status == "ok" else None
            if again is not None:
                asked.retries[request.key] = again.key
                asked.retried += 1
                seconds_asked.append(again)
        rounds.run(seconds_asked)
    return asked


class _Rounds:
    """The rounds of one run: one server, one gate, one budget, made when the first question needs them."""

    def __init__(
        self,
        settings: LLMSettings,
        home: Home,
        revision: str,
        as_of: dt.datetime,
        ledger: Ledger,
        stack: contextlib.ExitStack,
        asked: Asked,
    ) -> None:
        self._settings, self._home, self._revision, self._as_of = settings, home, revision, as_of
        self._ledger, self._stack, self._asked = ledger, stack, asked
        self._base_url = ""
        self._gate = Gate(settings.concurrency)
        self._budget: Budget | None = None

    def run(self, requests: Sequence[Request]) -> None:
        """Answer from the ledger what it holds, ask the rest, add it all to `asked`."""
        unique = {r.key: r for r in requests if r.key not in self._asked.ends}
        held = self._ledger.get_many(unique)
        self._asked.ends |= held
        self._asked.from_ledger += len(held)
        left = [r for key, r in unique.items() if key not in held]
        if not left:
            return
        budget = self._opened()
        started = time.monotonic()
        try:
            stop = asyncio.run(self._round(left, budget))
        finally:
            self._asked.seconds += time.monotonic() - started
            self._asked.prompt_tokens, self._asked.completion_tokens = budget.prompt_tokens, budget.completion_tokens
            self._asked.usd = budget.usd
        if self._asked.stopped_by == "none":
            self._asked.stopped_by = stop

    def _opened(self) -> Budget:
        """Start the server if it is ours to start; the budget's clock runs from here."""
        if self._budget is None:
            started = time.monotonic()
            self._base_url = self._settings.base_url
            if self._settings.provider == "local":
                self._base_url = self._stack.enter_context(local.serving(self._home, self._settings))
                self._asked.server_start_seconds = time.monotonic() - started
            self._budget = Budget.of(self._settings)
        return self._budget

    async def _round(self, requests: Sequence[Request], budget: Budget) -> Stop:
        transport = transport_for(self._settings, self._base_url)
        client = Client(
            transport,
            self._base_url,
            self._ledger,
            self._gate,
            budget,
            revision=self._revision,
            as_of=self._as_of,
            timeout_s=self._settings.timeout_s,
            max_attempts=self._settings.max_attempts,
            secret=os.environ.get(self._settings.api_key_env, ""),
        )
        try:
            await client.greet()
            with log.Progress("answers", len(requests)) as progress:
                ticking = asyncio.create_task(_tick(progress))
                try:
                    return await client.ask_all(requests, lambda request, answer: self._took(answer, progress, budget))
                finally:
                    ticking.cancel()
        finally:
            tally = client.tally
            self._asked.calls += tally.calls
            self._asked.answered += tally.ended["ok"]
            self._asked.pushed_back += tally.pushed_back
            self._asked.lost_tokens += tally.lost_tokens
            await transport.close()

    def _took(self, answer: Answer, progress: log.Progress, budget: Budget) -> None:
        self._asked.ends[answer.key] = answer
        progress.advance(tokens=budget.prompt_tokens + budget.completion_tokens, window=int(self._gate.window))


async def _tick(progress: log.Progress) -> None:
    """Let a stall show: a line every ten seconds even when nothing comes."""
    while True:
        await asyncio.sleep(1.0)
        progress.tick()


def ask_once(messages: list[dict[str, Any]], settings: LLMSettings, base_url: str, max_tokens: int = 400) -> str:
    """One question outside any run: not in the ledger, tried once.

    Raises:
        LLMError: no answer; says why.
    """
    body = {"model": settings.model, "messages": messages, "max_tokens": max_tokens, "temperature": 0.0, **settings.extra_body}

    async def send() -> str:
        transport = transport_for(settings, base_url)
        try:
            async with asyncio.timeout(settings.timeout_s):
                outcome = outcome_of(await transport.post(body_bytes(body), "once"), dt.datetime.now(dt.UTC))
        except (TransportFault, TimeoutError) as error:
            raise LLMError(f"no answer from {base_url} ({error or 'TimeoutError'})", "start the server, or mend llm.base_url") from error
        finally:
            await transport.close()
        if outcome.parsed is None:
            raise LLMError(f"the server at {base_url} gave no answer: {outcome.detail}", "mend what it says, then ask again")
        return outcome.parsed.text

    return asyncio.run(send())
