"""One line of a batch file: a request to send, or what came of it. OpenAI's form; `vllm run-batch` has the same.

{"custom_id": …, "method": "POST", "url": "/v1/chat/completions", "body": {…}}
{"custom_id": …, "response": {"status_code": 200, "body": {…}} | null, "error": {…} | text | null}
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from kar.llm import record
from kar.llm.ledger import Answer
from kar.llm.outcome import Outcome, outcome_of
from kar.llm.stream import Request
from kar.llm.transport import Reply

URL = "/v1/chat/completions"
_JSON = {"content-type": "application/json"}
_SHOWN_CHARS = 200


@dataclass(frozen=True, slots=True)
class Result:
    """What a result line says.

    Args:
        outcome: never of kind back_pressure or fatal: those speak of a server, a line only of its own row.
        created_at: when the answer was made, UTC; None if the line does not say.
    """

    custom_id: str
    outcome: Outcome
    created_at: dt.datetime | None


def request_line(key: str, body: bytes) -> bytes:
    """A request's line, newline and all; the body's bytes stay as they are."""
    return b'{"custom_id":%b,"method":"POST","url":"%b","body":%b}\n' % (orjson.dumps(key), URL.encode(), body)


def custom_id_of(line: bytes) -> str:
    """The custom id of a result line.

    Raises:
        ValueError: the line is no JSON object with a custom id and a response or an error; the message says which.
    """
    return str(_object(line)["custom_id"])


def read_result(line: bytes) -> Result:
    """Read a result line. Raises ValueError as `custom_id_of`."""
    data = _object(line)
    response, error = data.get("response"), data.get("error")
    if not isinstance(response, Mapping):
        return Result(data["custom_id"], Outcome("retry", _said(error)), None)
    status, body = response.get("status_code"), response.get("body")
    if not isinstance(status, int) or (status == 200 and error):
        return Result(data["custom_id"], Outcome("retry", _said(error or response)), None)
    content = orjson.dumps(body) if body is not None else _said(error).encode()
    outcome = outcome_of(Reply(status, _JSON, content), dt.datetime.now(dt.UTC))
    if outcome.kind in ("back_pressure", "fatal"):
        outcome = Outcome("retry", outcome.detail)
    created = body.get("created") if isinstance(body, Mapping) else None
    return Result(data["custom_id"], outcome, _time(created))


def answer_of(request: Request, revision: str, result: Result, asked_at: dt.datetime) -> Answer:
    """The ledger's row for a result.

    Args:
        revision: of the model, as in the key.
        asked_at: the clock of the run that takes the result, UTC.
    """
    return record.answer_of(
        request,
        result.outcome,
        attempts=1,
        lost_tokens=result.outcome.lost_tokens,
        detail=result.outcome.detail,
        revision=revision,
        server_version="",
        asked_at=asked_at,
        started_at=min(result.created_at or asked_at, asked_at),
        ended_at=asked_at,
    )


def _object(line: bytes) -> dict[str, Any]:
    try:
        data = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise ValueError("it is no JSON") from error
    if not isinstance(data, dict) or not isinstance(data.get("custom_id"), str):
        raise ValueError("it has no custom_id")
    if not data.get("response") and not data.get("error"):
        raise ValueError("it has neither response nor error: a request line?" if "body" in data else "it has neither response nor error")
    return data


def _said(error: object) -> str:
    """An error in words: its code and message where it has them, else its JSON."""
    if isinstance(error, Mapping) and error.get("message"):
        return f"{error.get('code') or ''} {error['message']}".strip()[:_SHOWN_CHARS]
    return error[:_SHOWN_CHARS] if isinstance(error, str) else orjson.dumps(error, default=str).decode()[:_SHOWN_CHARS]


def _time(created: object) -> dt.datetime | None:
    try:
        return dt.datetime.fromtimestamp(created, dt.UTC) if isinstance(created, int) and created > 0 else None
    except (OverflowError, ValueError, OSError):
        return None
