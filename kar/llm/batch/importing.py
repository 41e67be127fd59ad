"""Take the results of a batch into the ledger: what was asked, once; whatever else the files hold is counted and named."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from kar.llm.batch.lines import Result, answer_of
from kar.llm.batch.results import Faults, Results
from kar.llm.ledger import Answer, Ledger
from kar.llm.stream import Request

Announce = Callable[[list[str]], None]


@dataclass
class Imported:
    """What came of an import.

    Args:
        keys: of the rows that were added.
        answered, refused, exhausted: rows added to the ledger: good, refused for good, without an answer.
        known: results that the ledger holds already.
        repeated: further results of a request that had a good one.
        unanswered: requests without any result and without an answer in the ledger.
        unknown: results of requests that nobody asked, by custom id.
        faulty: lines that are no results.
        prompt_tokens, completion_tokens: of the rows added.
    """

    keys: list[str] = field(default_factory=list)
    answered: int = 0
    refused: int = 0
    exhausted: int = 0
    known: int = 0
    repeated: int = 0
    unanswered: int = 0
    unknown: Faults = field(default_factory=Faults)
    faulty: Faults = field(default_factory=Faults)
    prompt_tokens: int = 0
    completion_tokens: int = 0


def take(
    requests: Iterable[pa.Table], results: Results, ledger: Ledger, as_of: dt.datetime, announce: Announce = lambda keys: None
) -> Imported:
    """Match results to requests and put them into the ledger. A second time changes nothing.

    Args:
        requests: parts with the columns of `planned.COLUMNS`.
        as_of: the clock, UTC: when the answers were taken.
        announce: told the keys of each part's new rows before they are added: a kill in between must not hide them.

    Raises:
        LedgerError.
    """
    made = Imported(faulty=results.faults)
    for part in requests:
        rows = {row["request_key"]: row for row in part.to_pylist()}
        found = results.of(list(rows))
        good, answers = ledger.held(rows), list[Answer]()
        for key, row in rows.items():
            if key not in found:
                made.unanswered += key not in good
                continue
            answer, made.repeated = _best(row, found[key], as_of), made.repeated + len(found[key]) - 1
            if key in good or (answer.status != "ok" and _is_known(answer, ledger)):
                made.known += 1
                continue
            answers.append(answer)
            _count(made, answer)
        if answers:
            announce([answer.key for answer in answers])
        for answer in answers:
            ledger.put(answer)
        ledger.flush()  # a part at a time: files are read faster than a disk commits
    made.unknown = results.untaken()
    return made


def _best(row: dict[str, Any], results: list[Result], as_of: dt.datetime) -> Answer:
    """The first good result of a request, or its last failure."""
    result = next((r for r in results if r.outcome.kind == "ok"), results[-1])
    request = Request(row["request_key"], row["body"].encode(), row["prompt_tokens"], row["answer_tokens"], row["template_version"])
    return answer_of(request, row["revision"], result, as_of)


def _is_known(answer: Answer, ledger: Ledger) -> bool:
    """Whether the ledger holds this very failure. A result line of a failure says nothing of when it happened."""
    return any((row.status, row.detail) == (answer.status, answer.detail) for row in ledger.find([answer.key]).get(answer.key, []))


def _count(made: Imported, answer: Answer) -> None:
    made.keys.append(answer.key)
    made.answered += answer.status == "ok"
    made.refused += answer.status == "bad_request"
    made.exhausted += answer.status == "exhausted"
    made.prompt_tokens += answer.prompt_tokens
    made.completion_tokens += answer.completion_tokens
