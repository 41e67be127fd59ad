"""What the asking looks like over time: a reading of every server each two seconds, for the gates and for the report."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from kar import log
from kar.llm import metrics
from kar.llm.endpoints import Endpoint, Endpoints
from kar.llm.metrics import Reading
from kar.llm.transport import TransportFault

_MOST_ROWS = 2_000
_READ_TIMEOUT_S = 5.0
_FAILURES = 3  # in a row, until metrics that were there count as gone
_UNKNOWN = float("nan")


@dataclass(frozen=True, slots=True)
class Pace:
    """One server at one moment.

    Args:
        second: since the asking began.
        endpoint: its place in llm.endpoints, 0 first.
        window: most requests that may be in flight now.
        in_flight: of this run.
        waiting, running: requests at the server, of all clients; -1: it does not say.
        kv_share: of its cache, 0-1; NaN: it does not say.
        preemptions: since the asking began; -1: it does not say.
        answered: good answers of this run from this server, so far.
        tokens_per_s: completion tokens of this run's answers, since the row before.
        prefix_hit_share: of the prompt tokens since the row before; NaN: unknown.
    """

    second: float
    endpoint: int
    window: float
    in_flight: int
    waiting: int
    running: int
    kv_share: float
    preemptions: int
    answered: int
    tokens_per_s: float
    prefix_hit_share: float


@dataclass
class _Seen:
    """What is remembered of one server between two looks."""

    at: float
    answered: int = 0
    completion_tokens: int = 0
    first: Reading | None = None
    row: Reading | None = None
    newest: Reading | None = None
    failures: int = 0
    is_said: bool = False


class Watch:
    """Looks at every server as long as the asking lasts.

    Args:
        endpoints: whose gates are steered.
        interval_s: between two looks.
        reads_metrics: False: the gates are left alone, and rows hold only what the client knows.
        most_rows: when there are more, every second one is dropped, and from then on rows are half as frequent.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        endpoints: Endpoints,
        *,
        interval_s: float = 2.0,
        reads_metrics: bool = True,
        most_rows: int = _MOST_ROWS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._endpoints, self._interval_s, self._reads_metrics = endpoints, interval_s, reads_metrics
        self._most_rows, self._clock = most_rows, clock
        self._began = clock()
        self._seen = [_Seen(self._began) for _ in endpoints.all]
        self._moments: list[list[Pace]] = []
        self._stride = 1
        self._looks = 0

    @property
    def rows(self) -> list[Pace]:
        """What was seen, oldest first; of two looks in the same millisecond the later."""
        return list({(row.second, row.endpoint): row for moment in self._moments for row in moment}.values())

    @property
    def prefix_hit_share(self) -> float:
        """Of all prompt tokens since the asking began, those that the servers had computed before; NaN: unknown."""
        pairs = [(seen.first, seen.newest) for seen in self._seen if seen.first is not None and seen.newest is not None]
        queries = sum(last.prefix_queries - first.prefix_queries for first, last in pairs)
        hits = sum(last.prefix_hits - first.prefix_hits for first, last in pairs)
        return hits / queries if queries > 0 else _UNKNOWN

    async def run(self) -> None:
        """Look again and again, until cancelled."""
        while True:
            await asyncio.sleep(self._interval_s)
            await self.look()

    async def look(self, *, is_last: bool = False) -> None:
        """Read every server once, steer its gate, look for the lost ones; keep rows of it when their turn has come."""
        await asyncio.gather(*(self._look_at(e, s) for e, s in zip(self._endpoints.all, self._seen, strict=True)))
        self._endpoints.wake()  # windows may have grown
        self._looks += 1
        if not is_last and self._looks % self._stride:
            return
        self._moments.append([self._row(e, s) for e, s in zip(self._endpoints.all, self._seen, strict=True)])
        if len(self._moments) * len(self._seen) > self._most_rows and len(self._moments) > 1:
            self._moments = _every_second(self._moments)
            self._stride *= 2

    async def _look_at(self, endpoint: Endpoint, seen: _Seen) -> None:
        if not endpoint.is_alive:
            await self._endpoints.look_for(endpoint)
            return
        if not self._reads_metrics or (seen.first is None and seen.failures >= _FAILURES):
            return
        reading = await _read(endpoint)
        if reading is not None:
            if seen.first is None or reading.prefix_queries < (seen.newest or reading).prefix_queries:
                seen.first = reading  # also of a server that was started anew: it counts from 0 again
            seen.newest, seen.failures = reading, 0
            endpoint.gate.steer(reading)
            return
        seen.failures += 1
        if seen.newest is None or seen.failures >= _FAILURES:
            endpoint.gate.steer(None)
            seen.newest = None
            if not seen.is_said:
                seen.is_said = True
                log.info("server: no metrics to steer by", base_url=endpoint.base_url, concurrency=int(endpoint.gate.window))

    def _row(self, endpoint: Endpoint, seen: _Seen) -> Pace:
        now, reading, gate = self._clock(), seen.newest if endpoint.is_alive else None, endpoint.gate
        elapsed_s = max(now - seen.at, 1e-9)
        queries = reading.prefix_queries - (seen.row or seen.first or reading).prefix_queries if reading else 0
        hits = reading.prefix_hits - (seen.row or seen.first or reading).prefix_hits if reading else 0
        row = Pace(
            second=round(now - self._began, 3),
            endpoint=endpoint.place,
            window=round(gate.window, 2) if endpoint.is_alive else 0.0,
            in_flight=gate.in_flight,
            waiting=reading.waiting if reading else -1,
            running=reading.running if reading else -1,
            kv_share=reading.kv_share if reading else _UNKNOWN,
            preemptions=max(0, reading.preemptions - (seen.first or reading).preemptions) if reading else -1,
            answered=endpoint.answered,
            tokens_per_s=round((endpoint.completion_tokens - seen.completion_tokens) / elapsed_s, 2),
            prefix_hit_share=hits / queries if queries > 0 and hits >= 0 else _UNKNOWN,
        )
        seen.at, seen.completion_tokens, seen.row = now, endpoint.completion_tokens, reading
        return row


async def _read(endpoint: Endpoint) -> Reading | None:
    try:
        async with asyncio.timeout(_READ_TIMEOUT_S):
            reply = await endpoint.transport.get("/metrics", at_root=True)
    except (TransportFault, TimeoutError):
        return None
    return metrics.read(reply.content) if reply.status == 200 else None


def _every_second(moments: list[list[Pace]]) -> list[list[Pace]]:
    """Of every two moments the later one, with the mean speed of both."""
    kept = [
        [replace(b, tokens_per_s=round((a.tokens_per_s + b.tokens_per_s) / 2, 2)) for a, b in zip(first, second, strict=True)]
        for first, second in zip(moments[::2], moments[1::2], strict=False)
    ]
    return kept + moments[len(kept) * 2 :]
