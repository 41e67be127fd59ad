"""How many requests may be in flight: a window that halves when the server pushes back and grows back slowly.

Additive increase, multiplicative decrease. The upper end is the setting `llm.concurrency`.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable

_SHRINK = 0.5
_NO_GROWTH_S = 10.0


class Gate:
    """A concurrency window. All methods belong to one event loop.

    Args:
        limit: most requests in flight, also the window at the start.
        no_growth_s: seconds after a push-back in which the window stays small.
        clock: monotonic seconds.
    """

    def __init__(self, limit: int, *, no_growth_s: float = _NO_GROWTH_S, clock: Callable[[], float] = time.monotonic) -> None:
        self.limit = limit
        self.window = float(limit)
        self.in_flight = 0
        self.pushed_back = 0
        self._no_growth_s, self._clock = no_growth_s, clock
        self._shrunk_at = float("-inf")
        self._closed_until = float("-inf")
        self._waiters: deque[asyncio.Future[None]] = deque()

    async def enter(self) -> float:
        """Wait for a place. Returns the time of entry, which `push_back` wants back."""
        while True:
            if (wait_s := self._closed_until - self._clock()) > 0:
                await asyncio.sleep(wait_s)
            elif self.in_flight < int(self.window):
                self.in_flight += 1
                return self._clock()
            else:
                await self._turn()

    def leave(self) -> None:
        """Give the place back."""
        self.in_flight -= 1
        self._wake()

    def answered(self) -> None:
        """An answer came: one more place per window of answers, unless the server pushed back a moment ago."""
        if self.window < self.limit and self._clock() - self._shrunk_at >= self._no_growth_s:
            self.window = min(float(self.limit), self.window + 1.0 / self.window)

    def push_back(self, entered_at: float, retry_after_s: float = 0.0) -> None:
        """The server said 429 or 503: halve the window, and let nobody in before Retry-After has gone by.

        Sixteen requests that are refused together are one push-back: only those that entered after the last
        shrinking shrink it again.
        """
        now = self._clock()
        self.pushed_back += 1
        self._closed_until = max(self._closed_until, now + retry_after_s)
        if entered_at >= self._shrunk_at:
            self.window = max(1.0, self.window * _SHRINK)
            self._shrunk_at = now

    async def _turn(self) -> None:
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        try:
            await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled():
                self._wake()  # its turn had come: hand it on
            raise

    def _wake(self) -> None:
        free = int(self.window) - self.in_flight
        while free > 0 and self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(None)
                free -= 1
