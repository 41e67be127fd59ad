"""Several servers with the same model: which one a request goes to, and which ones are there at all.

A family of prompts (those with a common beginning) has a home by rendezvous hashing, so that each server holds the
beginnings of its own families, and a server that comes or goes moves only the families that are its own. A request
leaves home when home is full, or fuller than the emptiest server by a quarter of a window. Each server has a gate.

A server that breaks connections is asked for its health. One that does not answer is left out, tried again every few
seconds, and costs no request an attempt.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from kar import log
from kar.errors import ServerUnreachable
from kar.llm.gate import Gate
from kar.llm.transport import Transport, TransportFault

_SPILL_LOAD = 0.25
_PROBE_TIMEOUT_S = 5.0
GONE_PATIENCE_S = 120.0


@dataclass(eq=False)
class Endpoint:
    """One server.

    Args:
        place: in the settings' list, 0 first.
        weight: share of the families, against the other servers'.
        server_version: what it says it is; empty: unknown.
        answered, completion_tokens: since the asking began.
    """

    place: int
    base_url: str
    transport: Transport
    gate: Gate
    weight: float = 1.0
    server_version: str = ""
    is_alive: bool = True
    answered: int = 0
    completion_tokens: int = 0
    _probe: asyncio.Task[bool] | None = field(default=None, repr=False)

    async def is_healthy(self) -> bool:
        """Ask the server; those who ask while somebody asks share the question."""
        if self._probe is None or self._probe.done():
            self._probe = asyncio.create_task(self._is_healthy())
        return await asyncio.shield(self._probe)

    async def _is_healthy(self) -> bool:
        try:
            async with asyncio.timeout(_PROBE_TIMEOUT_S):
                reply = await self.transport.get("/health", at_root=True)
                if reply.status == 404:
                    reply = await self.transport.get("/models")
        except (TransportFault, TimeoutError):
            return False
        return reply.status < 500


class Endpoints:
    """The servers of a run. All methods belong to one event loop.

    Args:
        endpoints: at least one.
        patience_s: without any server for so long the run ends.
    """

    def __init__(self, endpoints: Sequence[Endpoint], *, patience_s: float = GONE_PATIENCE_S) -> None:
        self.all = tuple(endpoints)
        self._patience_s = patience_s
        self._waiters: deque[asyncio.Future[None]] = deque()
        self._gone_at: float | None = None

    def __len__(self) -> int:
        return len(self.all)

    @property
    def limit(self) -> int:
        """Most requests in flight, all servers together."""
        return sum(e.gate.limit for e in self.all)

    @property
    def addresses(self) -> str:
        """For messages."""
        return ", ".join(e.base_url for e in self.all)

    async def enter(self, family: str) -> tuple[Endpoint, float]:
        """Wait for a place at a server.

        Args:
            family: of the request; empty: none, any server will do.

        Returns:
            The server, whose gate has the request inside, and the time of entry.

        Raises:
            ServerUnreachable: no server has been there for `patience_s`.
        """
        while (endpoint := self._choice(family)) is None:
            await self._change()
        return endpoint, endpoint.gate.take()

    def leave(self, endpoint: Endpoint) -> None:
        """Give the place back."""
        endpoint.gate.leave()
        self.wake()

    def wake(self) -> None:
        """Let waiters look again: as many as there are free places, or one that will see that all are gone."""
        free = sum(max(0, int(e.gate.window) - e.gate.in_flight) for e in self.all if e.is_alive)
        while free > 0 and self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(None)
                free -= 1

    async def is_gone(self, endpoint: Endpoint) -> bool:
        """Whether a server that broke a connection is gone. If so it is left out until it answers again."""
        if endpoint.is_alive and not await endpoint.is_healthy():
            self.leave_out(endpoint)
        return not endpoint.is_alive

    async def look_for(self, endpoint: Endpoint) -> None:
        """See whether a lost server is back."""
        if not endpoint.is_alive and await endpoint.is_healthy():
            endpoint.is_alive, self._gone_at = True, None
            log.info("server: back", base_url=endpoint.base_url)
            self.wake()

    def leave_out(self, endpoint: Endpoint) -> None:
        """Send nothing to a server until it is healthy."""
        if not endpoint.is_alive:
            return
        endpoint.is_alive = False
        left = sum(e.is_alive for e in self.all)
        log.warning(
            "server: gone; its requests are asked again" + ("" if left else " when it is back"), base_url=endpoint.base_url, left=left
        )
        if not left:
            self._gone_at = time.monotonic()
            for waiter in self._waiters:  # from now on they wait with an end
                if not waiter.done():
                    waiter.set_result(None)
            self._waiters.clear()

    def _choice(self, family: str) -> Endpoint | None:
        """The server to ask now; None: none has room."""
        if len(self.all) == 1:
            only = self.all[0]
            return only if only.is_alive and only.gate.has_room() else None
        roomy = [e for e in self.all if e.is_alive and e.gate.has_room()]
        if not roomy:
            return None
        emptiest = min(roomy, key=lambda e: e.gate.load)
        if not family:
            return emptiest
        home = max((e for e in self.all if e.is_alive), key=lambda e: _score(family, e))
        return home if home in roomy and home.gate.load - emptiest.gate.load <= _SPILL_LOAD else emptiest

    async def _change(self) -> None:
        """Wait until somebody leaves, a closed gate opens, or a server is back."""
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        closed = [s for e in self.all if e.is_alive and (s := e.gate.closed_s()) > 0]
        wait_s = min(closed) if closed else None
        if self._gone_at is not None:
            wait_s = self._gone_at + self._patience_s - time.monotonic()
        try:
            async with asyncio.timeout(wait_s):
                await waiter
        except TimeoutError:
            self._raise_if_given_up()
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled():
                self.wake()  # its turn had come: hand it on
            raise

    def _raise_if_given_up(self) -> None:
        if self._gone_at is not None and time.monotonic() - self._gone_at >= self._patience_s:
            raise ServerUnreachable(
                f"no server has answered at {self.addresses} for {self._patience_s:.0f} s",
                "start it again and repeat the command; every answer so far is kept",
            )


def _score(family: str, endpoint: Endpoint) -> float:
    """Rendezvous hashing with weights: the highest score is home. Source: Schindelhauer and Schomaker, 2005."""
    digest = hashlib.sha256(f"{family}\x00{endpoint.base_url}".encode()).digest()
    share = (int.from_bytes(digest[:8], "big") + 0.5) / 2.0**64
    return -endpoint.weight / math.log(share)
