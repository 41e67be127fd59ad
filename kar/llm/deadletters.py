"""Dead letters: the night's refused answers (table `refused`), each with all that the ledger holds of it."""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from kar.errors import NotMade
from kar.llm.ledger import Answer
from kar.llm.ledger.reading import Reading
from kar.store import Home, Partition

_ROWS = 512


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A refused answer.

    Args:
        answer: first 2,000 characters.
        request_key: of the planned request or of one that asked it again, or of an imported line.
        has_fallback: whether the last good knowledge stands in.
        rows: what the ledger holds of the planned request and of whatever asked it again, oldest first; none: imported.
    """

    view: str
    subject_id: str
    reason: str
    detail: str
    answer: str
    request_key: str
    has_fallback: bool
    rows: tuple[Answer, ...]

    @property
    def planned_key(self) -> str:
        """The key of the request as it was planned."""
        return (self.rows[0].retry_of or self.rows[0].key) if self.rows else self.request_key

    @property
    def first(self) -> Answer | None:
        """The request as it was planned; None for an imported text."""
        return next((row for row in self.rows if row.key == self.planned_key), self.rows[0] if self.rows else None)

    @property
    def attempts(self) -> int:
        return sum(row.attempts for row in self.rows)

    @property
    def tokens(self) -> int:
        """All that was paid for it, failed attempts too."""
        return sum(row.prompt_tokens + row.completion_tokens + row.lost_tokens for row in self.rows)

    @property
    def at(self) -> dt.datetime | None:
        """When the newest row came; None for an imported text."""
        return max((row.ended_at for row in self.rows), default=None)


@dataclass(frozen=True, slots=True)
class Choice:
    """Which dead letters; an empty collection chooses all."""

    views: Collection[str] = ()
    reasons: Collection[str] = ()
    subject_id: str = ""

    def of(self, table: pa.Table) -> pa.Table:
        for name, wanted in (("view", self.views), ("reason", self.reasons), ("subject_id", [self.subject_id] if self.subject_id else [])):
            if wanted:
                table = table.filter(pc.is_in(table.column(name), value_set=pa.array(sorted(wanted), pa.string())))
        return table


def refused_partition(home: Home, date: dt.date | None) -> Partition:
    """The knowledge partition of a date; None: the newest. Raises NotMade."""
    made = home.partitions("knowledge")
    found = (made[-1] if made else None) if date is None else home.partition("knowledge", date)
    if found is None or not found.exists():
        when = "any date" if date is None else str(date)
        raise NotMade(f"knowledge has not been made for {when}", f"run: kar run knowledge{'' if date is None else f' --date {date}'}")
    return found


def counts(partition: Partition, choice: Choice) -> list[dict[str, Any]]:
    """Dead letters per view and reason, and how many of them have a fallback."""
    table = choice.of(pq.read_table(partition.table("refused"), columns=["view", "subject_id", "reason", "has_fallback"]))
    groups = table.group_by(["view", "reason"]).aggregate([([], "count_all"), ("has_fallback", "sum")])
    return sorted(groups.to_pylist(), key=lambda r: (r["view"], -r["count_all"], r["reason"]))


def letters(home: Home, partition: Partition, choice: Choice) -> Iterator[DeadLetter]:
    """The dead letters in the table's order, some hundred of them in memory at a time.

    Raises:
        LedgerError: the ledger is damaged.
    """
    with pq.ParquetFile(partition.table("refused")) as file, Reading(home.ledger) as ledger:
        for batch in file.iter_batches(_ROWS):
            rows = choice.of(pa.Table.from_batches([batch])).to_pylist()
            found = ledger.every([row["request_key"] for row in rows])
            firsts = {a.retry_of for answers in found.values() for a in answers if a.retry_of}
            found |= ledger.every(firsts - found.keys())
            for row in rows:
                yield DeadLetter(**row, rows=_family(row["request_key"], found))


def _family(key: str, found: dict[str, list[Answer]]) -> tuple[Answer, ...]:
    """Every row of the planned request that a key goes back to."""
    first = next((a.retry_of for a in found.get(key, []) if a.key == key and a.retry_of), key)
    return tuple(found.get(first, []))
