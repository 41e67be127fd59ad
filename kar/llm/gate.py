"""How many requests may be in flight at one server: additive increase, multiplicative decrease.

Where the server's metrics can be read they steer the window (`next_window`): the queue at the server is kept shallow,
so that its batch is full and nothing waits long. Where they cannot, the window is the setting `llm.concurrency`. Either
way 429 and 503 halve it. The upper end is always the setting.

Source: `next_window` follows the laws of TCP's congestion control and of llm-d's gates, with figures of our own.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from kar.llm.metrics import Reading

_START = 64  # of a window that metrics steer
_PUSHED_BACK = 0.5
_NO_GROWTH_S = 10.0
_OVERLOADED = 0.8
_DEEP_QUEUE = 0.5  # waiting, as a share of running: shrink
_SHALLOW_QUEUE = 0.1  # waiting, as a share of running: as it should be
_FULL_KV = 0.95
_ROOMY_KV = 0.85
_STEP, _STEP_SHARE = 4.0, 0.05


def next_window(window: float, limit: int, reading: Reading, *, preempted: bool, is_used: bool, is_settled: bool) -> float:
    """The window after a reading.

    Args:
        window: until now.
        limit: the upper end.
        preempted: the server took back work for want of memory since the last reading.
        is_used: the window was full since the last reading; one that is not used has no reason to grow.
        is_settled: no more are in flight than the window says. While earlier shrinking has yet to take effect, a deep
            queue is old news and shrinks nothing further.

    Returns:
        Between 1 and the limit.
    """
    shallow = max(1.0, _SHALLOW_QUEUE * reading.running)
    if reading.waiting > max(1.0, _DEEP_QUEUE * reading.running) or reading.kv_share > _FULL_KV or preempted:
        window = window * _OVERLOADED if is_settled else window
    elif reading.waiting > shallow:
        window = window - 1.0 if is_settled else window
    elif reading.waiting == 0 and reading.kv_share < _ROOMY_KV and is_used:
        window += max(_STEP, _STEP_SHARE * window)
    return min(max(window, 1.0), float(limit))


class Gate:
    """A concurrency window. It counts; who waits for a place is `kar.llm.endpoints`' matter.

    Args:
        limit: most requests in flight.
        no_growth_s: seconds after a push-back in which the window does not grow.
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
        self._most_in_flight = 0
        self._ceiling = float(limit)  # of growth without metrics
        self._last: Reading | None = None

    @property
    def is_steered(self) -> bool:
        """Whether the server's metrics set the window."""
        return self._last is not None

    @property
    def load(self) -> float:
        """In flight, as a share of the window."""
        return self.in_flight / self.window

    def closed_s(self) -> float:
        """Seconds until Retry-After has gone by; 0: open."""
        return max(0.0, self._closed_until - self._clock())

    def has_room(self) -> bool:
        return self.in_flight < int(self.window) and self._closed_until <= self._clock()

    def take(self) -> float:
        """Take a place. Returns the time of entry, which `push_back` wants back."""
        self.in_flight += 1
        if self.in_flight > self._most_in_flight:
            self._most_in_flight = self.in_flight
        return self._clock()

    def leave(self) -> None:
        """Give the place back."""
        self.in_flight -= 1

    def answered(self) -> None:
        """An answer came: without metrics, one more place per window of answers, up to where the window was before."""
        if not self.is_steered and self.window < self._ceiling and self._may_grow():
            self.window = min(self._ceiling, self.window + 1.0 / self.window)

    def push_back(self, entered_at: float, retry_after_s: float = 0.0) -> None:
        """The server said 429 or 503: halve the window, and let nobody in before Retry-After has gone by.

        Sixteen requests that are refused together are one push-back: only those that entered after the last
        shrinking shrink it again.
        """
        now = self._clock()
        self.pushed_back += 1
        self._closed_until = max(self._closed_until, now + retry_after_s)
        if entered_at >= self._shrunk_at:
            self.window = max(1.0, self.window * _PUSHED_BACK)
            self._shrunk_at = now

    def steer(self, reading: Reading | None) -> None:
        """Take note of the server's metrics.

        Args:
            reading: None: they cannot be read. A window that they never steered stays the limit; one that they did
                stays what it is, and without their leave grows no further.
        """
        if reading is None:
            if self._last is not None:
                self._ceiling, self._last = self.window, None
            return
        if self._last is None:
            self._ceiling = float(self.limit)
            self.window = min(self.window, float(_START))
        last = self._last or reading
        grown = next_window(
            self.window,
            self.limit,
            reading,
            preempted=reading.preemptions > last.preemptions,
            is_used=self._most_in_flight >= int(self.window) and self._may_grow(),
            is_settled=self.in_flight <= int(self.window),
        )
        self.window, self._last, self._most_in_flight = grown, reading, self.in_flight

    def _may_grow(self) -> bool:
        return self._clock() - self._shrunk_at >= self._no_growth_s
