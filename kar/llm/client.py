"""The asynchronous client: sends planned bodies, survives the servers' faults, puts every outcome into the ledger.

Errors by status and exception type:
    back-pressure  429, 503                             shrink the window, wait, ask again; not an attempt
    gone           time-out or broken connection of a   left out until it is back (`kar.llm.endpoints`); not an attempt
                   server that is not healthy
    retry          408, other 5xx, time-out, reset,     up to `max_attempts`, with jitter; then the row is `exhausted`
                   a reply that is not the JSON expected
    permanent      other 4xx                            the row is `bad_request`, at once
    fatal          401, 403, or > 20 % permanent        ServerRefused: the run stops, nothing paid is lost
                   among the last 500 (50 at least)
    silence        one window of rows exhausted         ServerUnreachable
                   without any reply
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import random
from collections.abc import Callable
from dataclasses import dataclass, field

from kar.errors import KarError
from kar.llm.breaker import Breaker
from kar.llm.budget import Budget, Reservation, Stop
from kar.llm.endpoints import Endpoint, Endpoints
from kar.llm.ledger import Answer, Ledger, Status
from kar.llm.outcome import Outcome, Read, outcome_of
from kar.llm.record import answer_of
from kar.llm.stream import Request, Stream
from kar.llm.transport import TransportFault

__all__ = ["Client", "Request", "Tally"]

_LONGEST_BACKOFF_S = 30.0
_MOST_MOVES = 3  # of one request away from servers that went down: more, and it may be what brings them down


@dataclass
class Tally:
    """What a client has done so far."""

    calls: int = 0
    pushed_back: int = 0
    lost_tokens: int = 0
    late: int = 0
    ended: dict[Status, int] = field(default_factory=lambda: {"ok": 0, "bad_request": 0, "exhausted": 0})


class Client:
    """Asks the servers of a run.

    Args:
        endpoints: the servers, with their gates.
        ledger: takes every outcome.
        budget: of the run.
        revision: of the model, as in the request keys.
        as_of: the run's clock, kept with each answer.
        timeout_s: of one attempt, from sending to the last byte.
        max_attempts: of one request, back-pressure and lost servers not counted.
        backoff_s: first pause before another attempt; doubles, with jitter, up to 30 s.
        patience_s: nothing but 429 and 503 for so long ends the run.
        secret: replaced in every detail that is stored or shown.
        read: what a reply means.
    """

    def __init__(
        self,
        endpoints: Endpoints,
        ledger: Ledger,
        budget: Budget,
        *,
        revision: str,
        as_of: dt.datetime,
        timeout_s: float = 120.0,
        max_attempts: int = 3,
        backoff_s: float = 0.5,
        patience_s: float = 600.0,
        secret: str = "",
        read: Read = outcome_of,
    ) -> None:
        self._endpoints, self._ledger, self._budget = endpoints, ledger, budget
        self._revision, self._as_of, self._timeout_s, self._max_attempts = revision, as_of, timeout_s, max_attempts
        self._backoff_s, self._secret, self._read = backoff_s, secret, read
        self._breaker = Breaker(endpoints.addresses, endpoints.limit, patience_s)
        self._floor, self._settled = asyncio.Lock(), asyncio.Event()
        self._stop: Stop = "none"
        self.tally = Tally()

    async def ask_all(self, stream: Stream, on_end: Callable[[Answer], None]) -> Stop:
        """Ask in the stream's order, as many at a time as the gates let in.

        Args:
            on_end: called with each outcome, good or failed, in the order they come.

        Returns:
            "none" if all were asked, else which limit stopped the asking. Requests after the stop get no outcome.

        Raises:
            ServerRefused, ServerUnreachable: see the module's table. What was answered is in the ledger.
        """
        self._stop = "none"
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(self._endpoints.limit):
                    group.create_task(self._work(stream, on_end))
        except BaseExceptionGroup as failed:
            named = [error for error in failed.exceptions if isinstance(error, KarError)]
            if not named:
                raise
            raise named[0] from None
        return self._stop

    async def _work(self, stream: Stream, on_end: Callable[[Answer], None]) -> None:
        """One of as many workers as may be in flight: take the next request, see it to its end, again."""
        while True:
            async with self._floor:  # one at a time, so that requests go out in their order
                request = await stream.take() if self._stop == "none" else None
                if request is None:
                    return
                reservation = await self._reserve(request)
                place = await self._enter(request) if reservation is not None else None
            answer: Answer | None = None
            try:
                if place is None:
                    return
                answer = await self._ask(request, *place)
                if answer is not None:
                    on_end(answer)
            finally:
                if reservation is not None:
                    self._budget.settle(reservation)
                self._settled.set()
                stream.ended(request, answer)

    async def _reserve(self, request: Request) -> Reservation | None:
        """Reserve; while the limit is only held by calls in flight, wait for what they really cost. None: the run stops."""
        while True:
            self._settled.clear()
            reservation = self._budget.reserve(request.prompt_tokens, request.answer_tokens)
            if isinstance(reservation, Reservation):
                return reservation
            if reservation == "deadline" or not self._budget.open_reservations:
                self._stop = reservation
                return None
            await self._settled.wait()

    async def _enter(self, request: Request) -> tuple[Endpoint, float] | None:
        """A place at a server, and when it was taken; None if the deadline comes first."""
        left_s = self._budget.seconds_left()
        if left_s is None:
            return await self._endpoints.enter(request.family)
        if left_s > 0:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(left_s):
                    return await self._endpoints.enter(request.family)
        self._stop = "deadline"
        return None

    async def _ask(self, request: Request, endpoint: Endpoint, entered_at: float) -> Answer | None:
        """Ask one request until it ends well or for good. None: the deadline came first."""
        started_at, attempts, pushed_back, moves, lost = _now(), 0, 0, 0, 0
        while True:
            try:
                outcome = await self._attempt(request, endpoint)
                self._heed(outcome, endpoint, entered_at)
            finally:
                self._endpoints.leave(endpoint)
            lost += outcome.lost_tokens
            if outcome.kind == "back_pressure":
                pushed_back += 1
                pause_s = self._pause_s(pushed_back, 0.0)  # Retry-After is the gate's: it holds for all
            elif not outcome.has_reply and moves < _MOST_MOVES and await self._endpoints.is_gone(endpoint):
                moves += 1
                pause_s = 0.0
            else:
                attempts += 1
                if outcome.kind != "retry" or attempts >= self._max_attempts:
                    return self._record(request, outcome, endpoint, attempts, lost, started_at)
                pause_s = self._pause_s(attempts, outcome.retry_after_s)
            await asyncio.sleep(pause_s)
            place = await self._enter(request)
            if place is None:
                self.tally.late += 1
                return None
            endpoint, entered_at = place

    async def _attempt(self, request: Request, endpoint: Endpoint) -> Outcome:
        """Send once and sort what comes back."""
        self.tally.calls += 1
        worst = request.prompt_tokens + request.answer_tokens
        try:
            async with asyncio.timeout(self._timeout_s):
                reply = await endpoint.transport.post(request.body, request.key[:16])
        except TimeoutError:
            return Outcome("retry", "TimeoutError", lost_tokens=worst, has_reply=False)
        except TransportFault as fault:
            return Outcome("retry", fault.kind, lost_tokens=worst if fault.was_sent else 0, has_reply=False)
        return self._read(reply, _now())

    def _heed(self, outcome: Outcome, endpoint: Endpoint, entered_at: float) -> None:
        """Tell the gate and the budget, and stop the run where going on is of no use."""
        if outcome.kind == "back_pressure":
            self.tally.pushed_back += 1
            endpoint.gate.push_back(entered_at, outcome.retry_after_s)
            self._breaker.pushed_back()
            return
        self._breaker.moved()
        if outcome.kind == "fatal":
            raise self._breaker.refused(self._shown(outcome.detail))
        if outcome.kind == "ok":
            endpoint.gate.answered()
        elif outcome.lost_tokens:
            self.tally.lost_tokens += outcome.lost_tokens
            self._budget.spend(outcome.lost_tokens, 0)

    def _record(self, request: Request, outcome: Outcome, endpoint: Endpoint, attempts: int, lost: int, started_at: dt.datetime) -> Answer:
        """Put the row's end into the ledger; stop the run if too many rows end badly."""
        answer = answer_of(
            request,
            outcome,
            attempts=attempts,
            lost_tokens=lost,
            detail=self._shown(outcome.detail),
            revision=self._revision,
            server_version=endpoint.server_version,
            asked_at=self._as_of,
            started_at=started_at,
        )
        if answer.status == "ok":
            self._budget.spend(answer.prompt_tokens, answer.completion_tokens, answer.cached_tokens)
            endpoint.answered += 1
            endpoint.completion_tokens += answer.completion_tokens
        self._ledger.put(answer)
        self.tally.ended[answer.status] += 1
        self._breaker.ended(answer, has_reply=outcome.has_reply)
        return answer

    def _pause_s(self, times: int, retry_after_s: float) -> float:
        longest_s = min(self._backoff_s * 2.0 ** min(times - 1, 16), _LONGEST_BACKOFF_S)
        return max(retry_after_s, longest_s * random.uniform(0.5, 1.0))

    def _shown(self, detail: str) -> str:
        """A detail without the key: some providers repeat it in their refusals."""
        return detail.replace(self._secret, "***") if self._secret else detail


def _now() -> dt.datetime:
    return dt.datetime.now(dt.UTC)
