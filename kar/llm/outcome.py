"""What a reply means: by status code and by shape, never by the words of a message."""

from __future__ import annotations

import datetime as dt
import email.utils
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import orjson

from kar.llm.transport import Reply

Kind = Literal["ok", "back_pressure", "retry", "permanent", "fatal"]
_SHOWN_CHARS = 200
_LONGEST_WAIT_S = 300.0


@dataclass(frozen=True, slots=True)
class Parsed:
    """A good reply.

    Args:
        text: the answer's content; may be empty (a finish reason says why).
        prompt_tokens, completion_tokens: -1 where the server did not say.
    """

    text: str
    finish_reason: str
    model: str
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    reasoning_tokens: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """One attempt's end.

    Args:
        detail: of a failure: status or exception type and the first words of the reply.
        retry_after_s: what the server asked for; 0 if it did not.
        parsed: of kind "ok" only.
        lost_tokens: what a failed attempt cost, as reported or (no reply) at worst.
        has_reply: False where nothing, or nothing whole, came back.
    """

    kind: Kind
    detail: str = ""
    retry_after_s: float = 0.0
    parsed: Parsed | None = None
    lost_tokens: int = 0
    has_reply: bool = True


Read = Callable[[Reply, dt.datetime], Outcome]
"""A reply and the time, to what it means."""


def outcome_of(reply: Reply, now: dt.datetime) -> Outcome:
    """Sort a reply. 429 and 503 are back-pressure; 408 and other 5xx may be tried again; 401 and 403 end the run."""
    status = reply.status
    if status == 200:
        return _read(reply)
    shown = reply.content[:_SHOWN_CHARS].decode("utf-8", "replace")
    detail = f"{status} {shown}".strip()
    wait_s = retry_after_s(reply.headers, now)
    if status in (429, 503):
        return Outcome("back_pressure", detail, wait_s)
    if status in (401, 403):
        return Outcome("fatal", detail)
    if status == 408 or status >= 500 or status < 300:
        return Outcome("retry", detail, wait_s)
    return Outcome("permanent", detail)


def retry_after_s(headers: Mapping[str, str], now: dt.datetime) -> float:
    """Seconds of a Retry-After header, which holds seconds or an HTTP date; 0 without one; at most 300."""
    value = headers.get("retry-after", "").strip()
    if not value:
        return 0.0
    try:
        seconds = float(value)
    except ValueError:
        try:
            at = email.utils.parsedate_to_datetime(value)
        except ValueError:
            return 0.0
        seconds = ((at if at.tzinfo else at.replace(tzinfo=dt.UTC)) - now).total_seconds()
    return min(max(seconds, 0.0), _LONGEST_WAIT_S) if seconds == seconds else 0.0


def _read(reply: Reply) -> Outcome:
    content_type = reply.headers.get("content-type", "").split(";")[0].strip().lower()
    if content_type != "application/json":
        return Outcome("retry", f"200 with content type {content_type or 'none'}")
    try:
        data = orjson.loads(reply.content)
    except orjson.JSONDecodeError:
        return Outcome("retry", f"200 with {len(reply.content)} bytes that are not JSON")
    usage = data.get("usage") if isinstance(data, dict) else None
    usage = usage if isinstance(usage, dict) else {}
    choices = data.get("choices") if isinstance(data, dict) else None
    choice = choices[0] if isinstance(choices, list) and choices and isinstance(choices[0], dict) else None
    message = choice.get("message") if choice else None
    if choice is None or not isinstance(message, dict) or not isinstance(message.get("content"), str | None):
        lost = max(_count(usage, "prompt_tokens"), 0) + max(_count(usage, "completion_tokens"), 0)
        return Outcome("retry", "200 without choices[0].message.content", lost_tokens=lost)
    return Outcome(
        "ok",
        parsed=Parsed(
            text=message.get("content") or "",
            finish_reason=str(choice.get("finish_reason") or ""),
            model=str(data.get("model") or ""),
            prompt_tokens=_count(usage, "prompt_tokens"),
            cached_tokens=max(_count(usage.get("prompt_tokens_details"), "cached_tokens"), 0),
            completion_tokens=_count(usage, "completion_tokens"),
            reasoning_tokens=max(_count(usage.get("completion_tokens_details"), "reasoning_tokens"), 0),
        ),
    )


def _count(usage: object, name: str) -> int:
    value = usage.get(name) if isinstance(usage, dict) else None
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else -1
