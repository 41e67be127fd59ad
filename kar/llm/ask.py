"""Ask a stream of requests: what the ledger holds is not asked again, and without a question no server is started."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any

from kar import log
from kar.errors import LLMError
from kar.llm.budget import Stop
from kar.llm.identity import ServerIdentity
from kar.llm.key import body_bytes
from kar.llm.ledger import Answer, Ledger
from kar.llm.outcome import outcome_of
from kar.llm.pace import Pace
from kar.llm.session import Session, opened
from kar.llm.stream import Cut, Request, Stream
from kar.llm.transport import TransportFault, transport_for
from kar.settings import LLMSettings
from kar.store import Home

Retry = Callable[[Request, Answer], Request | None]
_CHUNK = 256
_UNKNOWN = float("nan")


@dataclass
class Asked:
    """What came of the asking. Nothing per key: what came of a key is in the ledger, its rows of this run are `asked_at` the run's clock.

    Args:
        from_ledger: good answers that were already paid for.
        calls: what the servers saw, failed attempts and push-backs included.
        answered, failed: requests of this run.
        retried: cut answers that were asked for once more, or had been.
        prompt_tokens, cached_tokens, completion_tokens, lost_tokens, usd: of this run's calls.
        seconds: of asking, the start of a local server not included.
        prefix_hit_share: of all prompt tokens, those that the servers had computed before; NaN: they do not say.
        identity: of the first server; None: none was needed.
        pace: what each server did over time.
        clocks: `asked_at` of the runs that these figures sum up, where it was several (`kar ask`).
    """

    stopped_by: Stop = "none"
    from_ledger: int = 0
    calls: int = 0
    answered: int = 0
    failed: int = 0
    retried: int = 0
    pushed_back: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    lost_tokens: int = 0
    usd: float = 0.0
    seconds: float = 0.0
    server_start_seconds: float = 0.0
    prefix_hit_share: float = _UNKNOWN
    identity: ServerIdentity | None = None
    pace: list[Pace] = field(default_factory=list)
    clocks: frozenset[dt.datetime] = frozenset()


def ask(
    requests: Iterable[Request],
    settings: LLMSettings,
    home: Home,
    revision: str,
    as_of: dt.datetime,
    retry: Retry,
    *,
    total: int | None = None,
    is_beside: bool = False,
) -> Asked:
    """Ask the requests in order, then once more those for which `retry` gives another request.

    The second round comes last, so that a budget goes to subjects without an answer first. Of the requests only what
    is in flight, and a chunk ahead of it, is in memory.

    Args:
        requests: in the order to send, read as they are needed; equal keys are asked once.
        settings: model, addresses, budget.
        home: holds the ledger and the local models.
        revision: of the model, as in the keys.
        as_of: the run's clock, kept with each answer.
        retry: given a request and its good answer that stopped at the token limit, the request to ask instead, or None.
        total: how many requests there are, for the progress line; None: unknown.
        is_beside: other processes ask at the same time: a shard of the ledger that nobody else writes takes the answers, and is
            compacted at the end.

    Raises:
        ServerUnreachable, ServerRefused, ServerStartFailed, LedgerError, AlreadyRunning. What was answered is kept.
        ModelChanged: the server serves another revision than that in the keys; nothing was asked.
        KeyboardInterrupt: SIGINT or SIGTERM came (whatever their handlers raise): connections are closed, answers committed.
    """
    asked, cut, session = Asked(), list[Cut](), None
    with (
        Ledger.open_beside(home.ledger) if is_beside else Ledger.open(home.ledger) as ledger,
        contextlib.ExitStack() as stack,
    ):
        for is_second in (False, True):
            stream = Stream(_again(ledger, cut, retry) if is_second else requests, ledger, warm_up=settings.warm_up)
            if stream.has_more():
                session = session or stack.enter_context(opened(settings, home, revision, as_of, ledger))
                asked.stopped_by = session.ask(stream, None if is_second else total)
            asked.from_ledger += stream.from_ledger
            asked.retried += stream.taken + stream.from_ledger if is_second else 0
            cut = stream.cut
            if asked.stopped_by != "none":
                break
        if session is not None:
            sum_up(asked, session)
        if is_beside:
            ledger.compact()  # else every such file would be open to all who read, night after night
    return asked


def sum_up(asked: Asked, session: Session, said: str = "asked") -> None:
    """Take over what a session came to, and log it under a word."""
    tally, budget = session.client.tally, session.budget
    asked.calls, asked.pushed_back, asked.lost_tokens = tally.calls, tally.pushed_back, tally.lost_tokens
    asked.answered, asked.failed = tally.ended["ok"], tally.ended["bad_request"] + tally.ended["exhausted"]
    asked.prompt_tokens, asked.cached_tokens = budget.prompt_tokens, budget.cached_tokens
    asked.completion_tokens, asked.usd = budget.completion_tokens, budget.usd
    asked.seconds, asked.server_start_seconds = session.seconds, session.server_start_seconds
    asked.identity, asked.pace, asked.prefix_hit_share = session.identity, session.watch.rows, session.watch.prefix_hit_share
    is_known = asked.prefix_hit_share == asked.prefix_hit_share
    log.info(
        said,
        answered=asked.answered,
        failed=asked.failed,
        calls=asked.calls,
        from_ledger=asked.from_ledger,
        seconds=round(asked.seconds, 1),
        tokens_per_s=round(asked.completion_tokens / max(asked.seconds, 1e-9), 1),
        prefix_hit_share=round(asked.prefix_hit_share, 3) if is_known else "unknown",
    )


def _again(ledger: Ledger, cut: list[Cut], retry: Retry) -> Iterator[Request]:
    """The second requests for answers that were cut, made from what the ledger holds of the first."""
    left = iter(cut)
    while some := {c.key.hex(): c for c in islice(left, _CHUNK)}:
        answers = ledger.get_many(some)
        for key, c in some.items():
            first = Request(key, answers[key].body.encode(), c.prompt_tokens, c.answer_tokens, c.template_version, c.family)
            second = retry(first, answers[key])
            if second is not None:
                yield replace(second, family=second.family or c.family, retry_of=second.retry_of or key)


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
