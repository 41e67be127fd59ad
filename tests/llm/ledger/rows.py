"""Answers as a run would put them, and ledgers of every kind to read them from."""

from __future__ import annotations

import dataclasses
import datetime as dt
from pathlib import Path

from kar.llm.key import body_bytes, request_key
from kar.llm.ledger import Answer

ROOT = Path(__file__).parents[3]
NOW = dt.datetime(2026, 11, 20, 1, 2, 3, 456789, tzinfo=dt.UTC)


def key(name: str, revision: str = "r1") -> str:
    """The request key of the question `name`."""
    return request_key(body_bytes({"model": "tiny", "prompt": name}), revision)


def answer(name: str, text: str = "a text", *, after_s: float = 1.0, **changes: object) -> Answer:
    """An answer to the question `name`, ended `after_s` seconds after the run's clock."""
    body = body_bytes({"model": "tiny", "prompt": name}).decode()
    made = Answer(
        key=key(name),
        body=body,
        text=text,
        finish_reason="stop",
        prompt_tokens=11,
        cached_tokens=5,
        completion_tokens=7,
        reasoning_tokens=3,
        lost_tokens=2,
        model="tiny",
        revision="r1",
        template_version="t@1:abc",
        attempts=2,
        status="ok",
        detail="",
        asked_at=NOW,
        started_at=NOW,
        ended_at=NOW + dt.timedelta(seconds=after_s),
        server_version="vllm 0.32.0",
    )
    return dataclasses.replace(made, **changes)  # type: ignore[arg-type]


def failed(name: str, **changes: object) -> Answer:
    """A request that got no answer."""
    return answer(name, "", **{"status": "exhausted", "detail": "500", "finish_reason": "", "completion_tokens": 0, **changes})  # type: ignore[arg-type]
