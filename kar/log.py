"""Logs and progress: few lines, `key=value`; a bar on a terminal, one line per ten seconds otherwise.

Everything goes to stderr, so that stdout stays the answer of a command.
"""

from __future__ import annotations

import sys
import time

_LINE_EVERY_S = 10.0


def info(event: str, **fields: object) -> None:
    """One log line: `event key=value …`. Values with spaces are quoted."""
    print(" ".join([_plain(event), *(f"{key}={_shown(value)}" for key, value in fields.items())]), file=sys.stderr, flush=True)


def warning(event: str, **fields: object) -> None:
    info(f"warning: {event}", **fields)


def _shown(value: object) -> str:
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return repr(text) if " " in text or not text.isprintable() else text


def _plain(text: str) -> str:
    """A sentence without line breaks and control characters: it may quote a server, which must not forge a line."""
    return text if text.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


class Progress:
    """Counts work done. On a terminal a bar, otherwise one line per 10 s, also when nothing moved (a stall shows).

    Args:
        what: what is counted, e.g. "answers".
        total: how many there will be; None if unknown.
        every_s: seconds between lines when stderr is no terminal.
        is_shown: False: count in silence.
    """

    def __init__(self, what: str, total: int | None = None, every_s: float = _LINE_EVERY_S, *, is_shown: bool = True) -> None:
        self.what, self.total, self.every_s = what, total, every_s
        self.done = 0
        self.started = self._last = time.monotonic()
        self._bar = None
        self._is_shown = is_shown
        if is_shown and sys.stderr.isatty():
            from tqdm import tqdm

            self._bar = tqdm(total=total, desc=what, unit="", leave=False)

    def advance(self, count: int = 1, **fields: object) -> None:
        """Add `count`; `fields` are shown beside the count (tokens, loss, …)."""
        self.done += count
        if self._bar is not None:
            self._bar.update(count)
            if fields:
                self._bar.set_postfix({key: _shown(value) for key, value in fields.items()}, refresh=False)
        else:
            self.tick(**fields)

    def tick(self, **fields: object) -> None:
        """Print a line if ten seconds went by since the last one."""
        now = time.monotonic()
        if self._is_shown and self._bar is None and now - self._last >= self.every_s:
            self._last = now
            of = f"{self.done}/{self.total}" if self.total is not None else str(self.done)
            info(f"{self.what}: {of}", elapsed_s=round(now - self.started), **fields)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
