"""When going on is of no use: too many rows end badly, or nothing answers at all."""

from __future__ import annotations

import time
from collections import deque

from kar.errors import ServerRefused, ServerUnreachable
from kar.llm.ledger import Answer

_JUDGED_LAST = 500
_JUDGED_LEAST = 50
_MOST_PERMANENT_SHARE = 0.2


class Breaker:
    """Watches how a run's rows end.

    Args:
        addresses: of the servers, for messages.
        most_silent: so many rows in a row without any reply end the run.
        patience_s: nothing but 429 and 503 for so long ends the run.
    """

    def __init__(self, addresses: str, most_silent: int, patience_s: float) -> None:
        self._addresses, self._most_silent, self._patience_s = addresses, max(8, most_silent), patience_s
        self._was_permanent: deque[bool] = deque(maxlen=_JUDGED_LAST)
        self._permanent = 0
        self._silent = 0
        self._moved_at = time.monotonic()
        self.answered = 0

    def moved(self) -> None:
        """Something else than a push-back came."""
        self._moved_at = time.monotonic()

    def pushed_back(self) -> None:
        """A 429 or 503 came. Raises ServerUnreachable if nothing else has come for too long."""
        silent_s = time.monotonic() - self._moved_at
        if silent_s > self._patience_s:
            raise ServerUnreachable(
                f"the server at {self._addresses} has answered nothing but 429 and 503 for {silent_s:.0f} s",
                f"run again when it has room; {self.answered} answers of this run are kept",
            )

    def ended(self, answer: Answer, *, has_reply: bool) -> None:
        """A row has ended.

        Raises:
            ServerRefused: over 20 % of the last 500 rows (of 50 at least) were refused for good.
            ServerUnreachable: a whole window of rows got no reply.
        """
        self.answered += answer.status == "ok"
        is_permanent = answer.status == "bad_request"
        if len(self._was_permanent) == _JUDGED_LAST:
            self._permanent -= self._was_permanent[0]
        self._was_permanent.append(is_permanent)
        self._permanent += is_permanent
        count = len(self._was_permanent)
        if count >= _JUDGED_LEAST and self._permanent > _MOST_PERMANENT_SHARE * count:
            raise self.refused(f"{self._permanent / count:.0%} of the last {count} requests, the last one with: {answer.detail}")
        self._silent = 0 if has_reply else self._silent + 1
        if self._silent >= self._most_silent:
            raise ServerUnreachable(
                f"the server at {self._addresses} stopped answering: {self._silent} requests in a row got no reply ({answer.detail})",
                f"start it again and repeat the command; {self.answered} answers of this run are kept",
            )

    def refused(self, detail: str) -> ServerRefused:
        """The error for a server that refuses what it is asked."""
        return ServerRefused(
            f"the server at {self._addresses} refuses: {detail}",
            "mend llm.model, llm.extra_body or the key in the environment variable that llm.api_key_env names, and run again; "
            "every answer so far is kept",
        )
