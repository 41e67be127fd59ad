"""What the shares of a night's questions took: one small file for each attempt at a share, and their sum.

<home>/ledger/shares/date=D/PLAN/I-of-N.K.json    attempt K at share I of N of the plan whose requests have that digest

They stay when the partition is sealed: an attempt that comes after it must know what the night has spent. An attempt that was
killed left a file without an end; what it took is then counted from its rows in the ledger, which are `asked_at` its clock.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from kar.errors import LedgerError
from kar.llm.ask import Asked
from kar.llm.budget import Stop
from kar.llm.identity import ServerIdentity
from kar.llm.ledger import Answer
from kar.llm.ledger.reading import Reading
from kar.llm.pace import Pace
from kar.llm.paces import merged, thinned
from kar.settings import LLMSettings
from kar.stages.knowledge.share import Share
from kar.store import Home, Inputs, Manifest, write_whole

_KEYS = 1_000
_MOST_LOOKS = 120  # of one attempt at one server
_STOPS: tuple[Stop, ...] = ("token_budget", "usd_budget", "deadline")
_ADDED = ("calls", "answered", "failed", "retried", "pushed_back", "prompt_tokens", "cached_tokens", "completion_tokens", "lost_tokens")
_ALSO_ADDED = ("usd", "server_start_seconds")
_UNKNOWN = float("nan")


@dataclass(frozen=True)
class Attempt:
    """One process that asked a share.

    Args:
        place, of: which share; `number`: of the attempts at it, 0 first.
        as_of: its clock: `asked_at` of its rows.
        planned: requests of the share.
        is_over: it came to its end; False: it is at work, or was killed.
    """

    place: int
    of: int
    number: int
    as_of: dt.datetime
    planned: int
    is_over: bool = False
    asked: Asked = field(default_factory=Asked)

    @property
    def is_done(self) -> bool:
        """Whether nothing of the share is left to be asked."""
        return self.is_over and self.asked.stopped_by == "none"


@dataclass(frozen=True)
class Attempts:
    """Those at the shares of one plan."""

    folder: Path

    @classmethod
    def of_plan(cls, inputs: Inputs) -> Attempts:
        """Of the plan that the inputs hold; another plan of the same date has its own."""
        partition = inputs.partitions["prompts", "request"]
        assert partition is not None
        sha = str(Manifest.read(partition.manifest_path).tables["request"]["sha"])
        return cls(shares_folder(inputs.home, inputs.date) / sha[:16])

    def all(self) -> list[Attempt]:
        """Oldest first. Raises LedgerError if a file is damaged."""
        return sorted((_read(path) for path in self.folder.glob("*.json")), key=lambda a: (a.as_of, a.of, a.place, a.number))

    def keep(self, attempt: Attempt) -> None:
        """Write an attempt's file, whole. Raises LedgerError."""
        path = self.folder / f"{attempt.place}-of-{attempt.of}.{attempt.number}.json"
        asked = dataclasses.replace(attempt.asked, pace=thinned(attempt.asked.pace, _MOST_LOOKS))
        said = {f.name: getattr(attempt, f.name) for f in dataclasses.fields(Attempt)} | {"asked": _plain(asked)}
        try:
            write_whole(path, orjson.dumps(said).decode() + "\n")
        except OSError as error:
            raise LedgerError(f"{path} cannot be written: {error}", "make room on the disk and run again: nothing is lost") from error


def shares_folder(home: Home, date: dt.date) -> Path:
    return home.ledger / "shares" / f"date={date.isoformat()}"


def summed(attempts: Sequence[Attempt]) -> Asked:
    """What they took together, as if one process had asked.

    Seconds are those in which at least one was asking. What a later attempt at a share found in the ledger because an earlier one
    had asked it is no find. The night was stopped by what stopped the last attempt at any share.
    """
    asked = Asked(clocks=frozenset(attempt.as_of for attempt in attempts))
    if not attempts:
        return asked
    for name in (*_ADDED, *_ALSO_ADDED):
        setattr(asked, name, sum(getattr(attempt.asked, name) for attempt in attempts))
    asked.from_ledger = sum(_found(own) for own in by_share(attempts).values())
    asked.stopped_by = _stopped_by(attempts)
    first = min(attempt.as_of for attempt in attempts)
    began = [(attempt.as_of - first).total_seconds() for attempt in attempts]
    asked.seconds = _covered((at, at + attempt.asked.seconds) for at, attempt in zip(began, attempts, strict=True))
    asked.prefix_hit_share = _hit_share(attempts)
    asked.identity = next((attempt.asked.identity for attempt in reversed(attempts) if attempt.asked.identity), None)
    asked.pace = merged([(at, attempt.asked.pace) for at, attempt in zip(began, attempts, strict=True)])
    return asked


def by_share(attempts: Iterable[Attempt]) -> dict[tuple[int, int], list[Attempt]]:
    """(of, place) → its attempts, oldest first."""
    found: dict[tuple[int, int], list[Attempt]] = {}
    for attempt in attempts:
        found.setdefault((attempt.of, attempt.place), []).append(attempt)
    return found


def settled(inputs: Inputs, llm: LLMSettings, attempts: list[Attempt]) -> list[Attempt]:
    """The attempts; those that were killed with what the ledger says they took."""
    if all(attempt.is_over for attempt in attempts):
        return attempts
    found = []
    with Reading(inputs.home.ledger) as ledger:
        for attempt in attempts:
            if not attempt.is_over:
                share = Share(attempt.place, attempt.of)
                planned = (key for part in inputs.stream("request", ["request_key"]) for key in part.column("request_key").to_pylist())
                keys = [key for key in planned if share.holds(key)]
                parts = (ledger.every(keys[at : at + _KEYS]) for at in range(0, len(keys), _KEYS))
                rows = {(row.key, row.started_at, row.ended_at): row for part in parts for own in part.values() for row in own}
                attempt = counted(attempt, rows.values(), llm)
            found.append(attempt)
    return found


def counted(attempt: Attempt, rows: Iterable[Answer], llm: LLMSettings) -> Attempt:
    """An attempt that was killed, with what its rows in the ledger say.

    Args:
        rows: of the share's requests, whoever asked them.
    """
    own = [row for row in rows if row.asked_at == attempt.as_of]
    good = [row for row in own if row.status == "ok"]
    lost = sum(row.lost_tokens for row in own)
    asked = Asked(
        calls=sum(row.attempts for row in own),
        answered=len(good),
        failed=len(own) - len(good),
        retried=sum(row.retry_of != "" for row in own),
        prompt_tokens=sum(max(row.prompt_tokens, 0) for row in good) + lost,
        cached_tokens=sum(row.cached_tokens for row in good),
        completion_tokens=sum(max(row.completion_tokens, 0) for row in good),
        lost_tokens=lost,
    )
    price = llm.price()
    asked.usd = price.usd(asked.prompt_tokens, asked.completion_tokens)
    if price.cached is not None:
        asked.usd -= asked.cached_tokens * (price.prompt - price.cached) / 1e6
    if own:
        asked.seconds = (max(row.ended_at for row in own) - min(row.started_at for row in own)).total_seconds()
    return dataclasses.replace(attempt, asked=asked)


def _found(attempts: Sequence[Attempt]) -> int:
    """Answers that were there before the first attempt at a share."""
    most, answered = 0, 0
    for attempt in attempts:
        most = max(most, attempt.asked.from_ledger - answered)
        answered += attempt.asked.answered
    return most


def _stopped_by(attempts: Sequence[Attempt]) -> Stop:
    """Of the shares as they were cut last."""
    of = max(attempts, key=lambda attempt: attempt.as_of).of
    last = {own[-1].asked.stopped_by for (parts, _), own in by_share(attempts).items() if parts == of}
    return next((stop for stop in _STOPS if stop in last), "none")


def _hit_share(attempts: Sequence[Attempt]) -> float:
    known = [(a.asked.prompt_tokens, a.asked.prefix_hit_share) for a in attempts if a.asked.prefix_hit_share == a.asked.prefix_hit_share]
    tokens = sum(weight for weight, _ in known)
    return sum(weight * share for weight, share in known) / tokens if tokens else _UNKNOWN


def _covered(spans: Iterable[tuple[float, float]]) -> float:
    """Seconds that lie in at least one of the spans."""
    total, end = 0.0, 0.0
    for begins, ends in sorted(spans):
        total += max(0.0, ends - max(begins, end))
        end = max(end, ends)
    return total


def _plain(asked: Asked) -> dict[str, Any]:
    said = {f.name: getattr(asked, f.name) for f in dataclasses.fields(Asked) if f.name != "clocks"}
    identity = dataclasses.asdict(asked.identity) if asked.identity else None
    return said | {"identity": identity, "pace": [dataclasses.astuple(row) for row in asked.pace]}


def _read(path: Path) -> Attempt:
    try:
        said = orjson.loads(path.read_bytes())
        asked = said.pop("asked")
        asked["identity"] = ServerIdentity(**asked["identity"]) if asked["identity"] else None
        asked["pace"] = [_look(row) for row in asked["pace"]]
        if asked["prefix_hit_share"] is None:  # JSON knows no NaN
            asked["prefix_hit_share"] = _UNKNOWN
        return Attempt(**said | {"as_of": dt.datetime.fromisoformat(said["as_of"]), "asked": Asked(**asked)})
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise LedgerError(f"{path} cannot be read: {error}", "remove it; the night's figures then lack what it took") from error


def _look(row: list[Any]) -> Pace:
    values: list[Any] = [_UNKNOWN if value is None else value for value in row]
    return Pace(*values)
