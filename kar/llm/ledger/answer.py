"""What one row of the ledger is, and the two ways to tell that it is still what was written.

The request key vouches for body and revision (`kar.llm.key`), the digest for every other field, the key among them:
together they are the row's identity. Two rows with the same digest are the same row, wherever they lie.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import operator
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

import orjson
import pyarrow as pa

from kar.llm.key import request_key

Status = Literal["ok", "bad_request", "exhausted"]


@dataclass(frozen=True, slots=True)
class Answer:
    """One request's outcome, as the server gave it.

    Args:
        key: `kar.llm.key.request_key` of body and revision.
        body: the exact JSON text that was sent.
        text: the answer; empty unless status is ok.
        finish_reason: as the server names it (stop, length, content_filter …).
        prompt_tokens, cached_tokens, completion_tokens, reasoning_tokens: as the server counted.
        lost_tokens: of attempts that failed: as reported, else estimated.
        model: as the server names it in the answer.
        revision: the one in the key.
        template_version: id@version:digest.
        attempts: attempts made, this one included; back-pressure is not an attempt.
        status: ok · bad_request (refused for good) · exhausted (no answer after the last attempt).
        detail: of a failure: status code or exception type, and the server's first words.
        asked_at: the clock of the run that asked, UTC.
        started_at, ended_at: of the request, UTC.
        server_version: what the server says it is, such as "vllm 0.32.0"; empty if it does not say.
        retry_of: key of the request that this one asks again, with more tokens or by a replay; empty if none.
    """

    key: str
    body: str
    text: str
    finish_reason: str
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    reasoning_tokens: int
    lost_tokens: int
    model: str
    revision: str
    template_version: str
    attempts: int
    status: Status
    detail: str
    asked_at: dt.datetime
    started_at: dt.datetime
    ended_at: dt.datetime
    server_version: str = ""
    retry_of: str = ""


COLUMNS = tuple(f.name for f in fields(Answer))
INTEGERS = frozenset(n for n in COLUMNS if n.endswith("_tokens") or n == "attempts")
TIMES = tuple(n for n in COLUMNS if n.endswith("_at"))
STORED = (*COLUMNS, "digest")  # the order of a stored row's values

_TIME = pa.timestamp("us", "UTC")
SCHEMA = pa.schema(
    [
        *((n, pa.int64() if n in INTEGERS else _TIME if n in TIMES else pa.string()) for n in COLUMNS),
        ("digest", pa.binary(32)),
    ]
)

_BODY = COLUMNS.index("body")
_TIME_PLACES = tuple(COLUMNS.index(n) for n in TIMES)
_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_MICROSECOND = dt.timedelta(microseconds=1)
_values = operator.attrgetter(*COLUMNS)


def stored(answer: Answer) -> tuple[Any, ...]:
    """The row as SQLite keeps it: the fields in order, times as ISO text in UTC, then the digest."""
    values = list(_values(answer))
    for place in _TIME_PLACES:
        values[place] = values[place].astimezone(dt.UTC).isoformat()
    return (*values, _digest(values))


def without_surrogates(answer: Answer) -> Answer:
    """Half a surrogate pair cannot be written as UTF-8: it becomes a question mark."""
    return replace(
        answer, **{n: getattr(answer, n).encode("utf-8", "replace").decode() for n in ("text", "finish_reason", "model", "detail")}
    )


def of_stored(values: Sequence[Any]) -> tuple[Answer, bytes]:
    """A row as SQLite gave it, and the digest that was written with it (computed where none was: format 1).

    Raises:
        ValueError: a time that is none.
    """
    fresh = list(values[:-1])
    for place in _TIME_PLACES:
        fresh[place] = dt.datetime.fromisoformat(fresh[place])
    return Answer(*fresh), values[-1] if values[-1] is not None else _digest(list(values[:-1]))


def fault(answer: Answer, digest: bytes) -> str:
    """What is wrong with a row; empty if its key fits its body and its digest the rest of it."""
    if request_key(answer.body.encode("utf-8", "surrogatepass"), answer.revision) != answer.key:
        return "its key is not that of its body and revision"
    return "" if stored(answer)[-1] == digest else "its fields are not those that were written"


def table_of(rows: Iterable[Sequence[Any]]) -> pa.Table:
    """Rows as SQLite gave them, as a table of `SCHEMA`."""
    answers = [of_stored(row) for row in rows]
    columns = list(zip(*(_values(a) for a, _ in answers), strict=True)) or [()] * len(COLUMNS)
    arrays = []
    for name, values in zip(COLUMNS, columns, strict=True):
        if name in TIMES:
            arrays.append(pa.array([(v - _EPOCH) // _MICROSECOND for v in values], pa.int64()).cast(_TIME))
        else:
            arrays.append(pa.array(values, SCHEMA.field(name).type))
    return pa.Table.from_arrays([*arrays, pa.array([d for _, d in answers], pa.binary(32))], schema=SCHEMA)


def of_table(table: pa.Table) -> list[tuple[Answer, bytes]]:
    """The rows of a table of `SCHEMA` (other columns are left out), each with the digest that was written with it."""
    columns = []
    for name in COLUMNS:
        column = table.column(name)
        if name in TIMES:
            columns.append([_EPOCH + v * _MICROSECOND for v in column.cast(pa.int64()).to_pylist()])
        else:
            columns.append(column.to_pylist())
    return [(Answer(*values), digest) for *values, digest in zip(*columns, table.column("digest").to_pylist(), strict=True)]


def order(answer: Answer, digest: bytes) -> tuple[dt.datetime, bytes]:
    """What decides which of two rows of one key came first: the same in every shard, part and copy."""
    return answer.ended_at, digest


def _digest(values: list[Any]) -> bytes:
    """sha256 of all but the body, which the key covers."""
    return hashlib.sha256(orjson.dumps(values[:_BODY] + values[_BODY + 1 :])).digest()
