"""What the ledger is told of a request that has ended."""

from __future__ import annotations

import datetime as dt

from kar.llm.ledger import Answer, Status
from kar.llm.outcome import Outcome, Parsed
from kar.llm.stream import Request

_NOTHING = Parsed(text="", finish_reason="", model="", prompt_tokens=0, cached_tokens=0, completion_tokens=0, reasoning_tokens=0)
_STATUS: dict[str, Status] = {"ok": "ok", "permanent": "bad_request"}  # what else ends a row was tried to the end


def answer_of(
    request: Request,
    outcome: Outcome,
    *,
    attempts: int,
    lost_tokens: int,
    detail: str,
    revision: str,
    server_version: str,
    asked_at: dt.datetime,
    started_at: dt.datetime,
    ended_at: dt.datetime | None = None,
) -> Answer:
    """The ledger's row. Tokens that the server did not count are estimated: the prompt as planned, 4 characters a token.

    Args:
        outcome: of the last attempt.
        attempts: that one included.
        lost_tokens: of the attempts that failed.
        detail: of a failure, with nothing secret in it.
        revision: the one in the key.
        asked_at: the run's clock.
        started_at: of the first attempt.
        ended_at: None: now.
    """
    parsed = outcome.parsed or _NOTHING
    return Answer(
        key=request.key,
        body=request.body.decode(),
        text=parsed.text,
        finish_reason=parsed.finish_reason,
        prompt_tokens=parsed.prompt_tokens if parsed.prompt_tokens >= 0 else request.prompt_tokens,
        cached_tokens=parsed.cached_tokens,
        completion_tokens=parsed.completion_tokens if parsed.completion_tokens >= 0 else -(-len(parsed.text) // 4),
        reasoning_tokens=parsed.reasoning_tokens,
        lost_tokens=lost_tokens,
        model=parsed.model,
        revision=revision,
        template_version=request.template_version,
        attempts=attempts,
        status=_STATUS.get(outcome.kind, "exhausted"),
        detail=detail,
        asked_at=asked_at,
        started_at=started_at,
        ended_at=ended_at or dt.datetime.now(dt.UTC),
        server_version=server_version,
        retry_of=request.retry_of,
    )
