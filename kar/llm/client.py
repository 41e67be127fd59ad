"""The asynchronous client: sends planned bodies, survives the server's faults, puts every outcome into the ledger.

Errors by status and exception type:
    back-pressure  429, 503                             shrink the window, wait, ask again; not an attempt
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
import datetime as dt
import random
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from kar.errors import KarError, ServerRefused, ServerUnreachable
from kar.llm.budget import Budget, Reservation, Stop
from kar.llm.gate import Gate
from kar.llm.ledger import Answer, Ledger, Status
from kar.llm.outcome import Outcome, outcome_of
from kar.llm.transport import Transport, TransportFault

_JUDGED_LAST = 500
_JUDGED_LEAST = 50
_MOST_PERMANENT_SHARE = 0.2
_LONGEST_BACKOFF_S = 30.0


@dataclass(frozen=True, slots=True)
class Request:
    """One planned call.

    Args:
        key: `kar.llm.key.request_key` of body and revision.
        body: the canonical bytes that are sent.
        prompt_tokens: estimate, for the budget.
        answer_tokens: the most the answer may take, for the budget.
        template_version: id@version:digest.
    """

    key: str
    body: bytes
    prompt_tokens: int
    answer_tokens: int
    template_version: str
    family: str = ""
    retry_of: str = ""


@dataclass
class Tally:
    """What a client has done so far."""

    calls: int = 0
    pushed_back: int = 0
    lost_tokens: int = 0
    ended: dict[Status, int] = field(default_factory=lambda: {"ok": 0, "bad_request": 0, "exhausted": 0})


class Client:
    """Asks one server.

    Args:
        transport: to the server.
        base_url: for messages only.
        ledger: takes every outcome.
        gate, budget: shared by all rounds of a run.
        revision: of the model, as in the request keys.
        as_of: the run's clock, kept with each answer.
        timeout_s: of one attempt, from sending to the last byte.
        max_attempts: of one request, back-pressure not counted.
        backoff_s: first pause before another attempt; doubles, with jitter, up to 30 s.
        patience_s: nothing but 429 and 503 for so long ends the run.
        secret: replaced in every detail that is stored or shown.
    """

    def __init__(
        self,
        transport: Transport,
        base_url: str,
        ledger: Ledger,
        gate: Gate,
        budget: Budget,
        *,
        revision: str,
        as_of: dt.datetime,
        timeout_s: float = 120.0,
        max_attempts: int = 3,
        backoff_s: float = 0.5,
        patience_s: float = 600.0,
        secret: str = "",
    ) -> None:
        self._transport, self._base_url = transport, base_url
        self._ledger, self._gate, self._budget = ledger, gate, budget
        self._revision, self._as_of, self._timeout_s, self._max_attempts = revision, as_of, timeout_s, max_attempts
        self._backoff_s, self._patience_s, self._secret = backoff_s, patience_s, secret
        self.tally = Tally()
        self._was_permanent: deque[bool] = deque(maxlen=_JUDGED_LAST)
        self._silent_rows = 0
        self._late_rows = 0
        self._moved_at = time.monotonic()

    async def greet(self) -> None:
        """See whether the server answers at all.

        Raises:
            ServerUnreachable: nothing answers at the address.
            ServerRefused: it wants another key.
        """
        fault = ""
        for pause_s in (0.2, 0.5, 0.0):
            try:
                async with asyncio.timeout(min(self._timeout_s, 10.0)):
                    reply = await self._transport.models()
            except (TransportFault, TimeoutError) as error:
                fault = error.kind if isinstance(error, TransportFault) else "TimeoutError"
                await asyncio.sleep(pause_s)
                continue
            if reply.status in (401, 403):
                raise self._refused(f"{reply.status} {reply.content[:200].decode('utf-8', 'replace')}")
            return
        raise ServerUnreachable(
            f"no language model server answers at {self._base_url} ({fault})",
            "start the server, mend llm.base_url, or set llm.provider = 'local'",
        )

    async def ask_all(self, requests: Iterable[Request], on_end: Callable[[Request, Answer], None]) -> Stop:
        """Ask in the given order, as many at a time as the gate lets in.

        Args:
            requests: taken one by one as places come free.
            on_end: called with each outcome, good or failed, in the order they come.

        Returns:
            "none" if all were asked, else which limit stopped the asking. Requests after the stop get no outcome.

        Raises:
            ServerRefused, ServerUnreachable: see the module's table. What was answered is in the ledger.
        """
        stop: Stop = "none"
        settled = asyncio.Event()
        late_before = self._late_rows
        try:
            async with asyncio.TaskGroup() as group:
                for request in requests:
                    reservation = await self._reserve(request, settled)
                    if not isinstance(reservation, Reservation):
                        stop = reservation
                        break
                    if (entered_at := await self._enter()) is None:
                        self._budget.settle(reservation)
                        stop = "deadline"
                        break
                    group.create_task(self._ask(request, reservation, entered_at, settled, on_end))
        except BaseExceptionGroup as failed:
            named = [error for error in failed.exceptions if isinstance(error, KarError)]
            if not named:
                raise
            raise named[0] from None
        return "deadline" if self._late_rows > late_before else stop

    async def _reserve(self, request: Request, settled: asyncio.Event) -> Reservation | Stop:
        """Reserve; while the limit is only held by calls in flight, wait for what they really cost."""
        while True:
            settled.clear()
            reservation = self._budget.reserve(request.prompt_tokens, request.answer_tokens)
            if isinstance(reservation, Reservation) or reservation == "deadline" or not self._budget.open_reservations:
                return reservation
            await settled.wait()

    async def _enter(self) -> float | None:
        """A place in the gate, and when it was taken; None if the deadline comes first."""
        left_s = self._budget.seconds_left()
        if left_s == 0:
            return None
        try:
            async with asyncio.timeout(left_s):
                return await self._gate.enter()
        except TimeoutError:
            return None

    async def _ask(
        self,
        request: Request,
        reservation: Reservation,
        entered_at: float,
        settled: asyncio.Event,
        on_end: Callable[[Request, Answer], None],
    ) -> None:
        """Ask one request until it ends well, for good, or the deadline passes."""
        started_at, attempts, pushed_back, lost = _now(), 0, 0, 0
        try:
            while True:
                try:
                    outcome = await self._attempt(request)
                    self._heed(outcome, entered_at)
                finally:
                    self._gate.leave()
                if outcome.kind == "back_pressure":
                    pushed_back += 1
                    pause_s = self._pause_s(pushed_back, 0.0)  # Retry-After is the gate's: it holds for all
                else:
                    attempts += 1
                    lost += outcome.lost_tokens
                    if outcome.kind != "retry" or attempts >= self._max_attempts:
                        on_end(request, self._record(request, outcome, attempts, lost, started_at))
                        return
                    pause_s = self._pause_s(attempts, outcome.retry_after_s)
                await asyncio.sleep(pause_s)
                if (entered_again_at := await self._enter()) is None:
                    self._late_rows += 1
                    return
                entered_at = entered_again_at
        finally:
            self._budget.settle(reservation)
            settled.set()

    async def _attempt(self, request: Request) -> Outcome:
        """Send once and sort what comes back."""
        self.tally.calls += 1
        worst = request.prompt_tokens + request.answer_tokens
        try:
            async with asyncio.timeout(self._timeout_s):
                reply = await self._transport.post(request.body, request.key[:16])
        except TimeoutError:
            return Outcome("retry", "TimeoutError", lost_tokens=worst, has_reply=False)
        except TransportFault as fault:
            return Outcome("retry", fault.kind, lost_tokens=worst if fault.was_sent else 0, has_reply=False)
        return outcome_of(reply, _now())

    def _heed(self, outcome: Outcome, entered_at: float) -> None:
        """Tell the gate and the budget, and stop the run where going on is of no use."""
        if outcome.kind == "back_pressure":
            self.tally.pushed_back += 1
            self._gate.push_back(entered_at, outcome.retry_after_s)
            silent_s = time.monotonic() - self._moved_at
            if silent_s > self._patience_s:
                raise ServerUnreachable(
                    f"the server at {self._base_url} has answered nothing but 429 and 503 for {silent_s:.0f} s",
                    f"run again when it has room; {self.tally.ended['ok']} answers of this run are kept",
                )
            return
        self._moved_at = time.monotonic()
        if outcome.kind == "fatal":
            raise self._refused(outcome.detail)
        if outcome.kind == "ok":
            self._gate.answered()
        elif outcome.lost_tokens:
            self.tally.lost_tokens += outcome.lost_tokens
            self._budget.spend(outcome.lost_tokens, 0)

    def _record(self, request: Request, outcome: Outcome, attempts: int, lost: int, started_at: dt.datetime) -> Answer:
        """Put the row's end into the ledger; stop the run if too many rows end badly."""
        parsed = outcome.parsed
        status: Status = "ok" if outcome.kind == "ok" else "bad_request" if outcome.kind == "permanent" else "exhausted"
        prompt = completion = 0
        if parsed is not None:
            prompt = parsed.prompt_tokens if parsed.prompt_tokens >= 0 else request.prompt_tokens
            completion = parsed.completion_tokens if parsed.completion_tokens >= 0 else -(-len(parsed.text) // 4)
            self._budget.spend(prompt, completion)
        answer = Answer(
            key=request.key,
            body=request.body.decode(),
            text=parsed.text if parsed else "",
            finish_reason=parsed.finish_reason if parsed else "",
            prompt_tokens=prompt,
            cached_tokens=parsed.cached_tokens if parsed else 0,
            completion_tokens=completion,
            reasoning_tokens=parsed.reasoning_tokens if parsed else 0,
            lost_tokens=lost,
            model=parsed.model if parsed else "",
            revision=self._revision,
            template_version=request.template_version,
            retry_of=request.retry_of,
            attempts=attempts,
            status=status,
            detail=self._shown(outcome.detail),
            asked_at=self._as_of,
            started_at=started_at,
            ended_at=_now(),
        )
        self._ledger.put(answer)
        self._judge_the_run(answer, has_reply=outcome.has_reply)
        return answer

    def _judge_the_run(self, answer: Answer, *, has_reply: bool) -> None:
        """Raise where so many rows ended badly that the fault is not theirs."""
        self.tally.ended[answer.status] += 1
        self._was_permanent.append(answer.status == "bad_request")
        share = sum(self._was_permanent) / len(self._was_permanent)
        if len(self._was_permanent) >= _JUDGED_LEAST and share > _MOST_PERMANENT_SHARE:
            raise self._refused(f"{share:.0%} of the last {len(self._was_permanent)} requests, the last one with: {answer.detail}")
        self._silent_rows = 0 if has_reply else self._silent_rows + 1
        if self._silent_rows >= max(8, self._gate.limit):
            raise ServerUnreachable(
                f"the server at {self._base_url} stopped answering: {self._silent_rows} requests in a row got no reply ({answer.detail})",
                f"start it again and repeat the command; {self.tally.ended['ok']} answers of this run are kept",
            )

    def _pause_s(self, times: int, retry_after_s: float) -> float:
        longest_s = min(self._backoff_s * 2.0 ** min(times - 1, 16), _LONGEST_BACKOFF_S)
        return max(retry_after_s, longest_s * random.uniform(0.5, 1.0))

    def _refused(self, detail: str) -> ServerRefused:
        return ServerRefused(
            f"the server at {self._base_url} refuses: {self._shown(detail)}",
            "mend llm.model, llm.extra_body or the key in the environment variable that llm.api_key_env names, and run again; "
            "every answer so far is kept",
        )

    def _shown(self, detail: str) -> str:
        """A detail without the key: some providers repeat it in their refusals."""
        return detail.replace(self._secret, "***") if self._secret else detail


def _now() -> dt.datetime:
    return dt.datetime.now(dt.UTC)
