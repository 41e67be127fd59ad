"""What a ledger holds and what it cost, counted in one pass that reads no text of a part."""

from __future__ import annotations

import datetime as dt
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from kar.llm.ledger.places import part_paths, shard_paths
from kar.llm.ledger.reading import Reading
from kar.llm.ledger.transfer import exists

TOKENS = ("prompt_tokens", "cached_tokens", "completion_tokens", "reasoning_tokens", "lost_tokens")
_BY = ("model", "template_version", "day")


@dataclass(frozen=True, slots=True)
class Group:
    """The rows of one model, template version and day.

    Args:
        model: as the server named it; empty for requests that never got a reply.
        day: on which they ended, UTC.
        rows, good: requests, and those that got an answer.
        prompt_tokens, completion_tokens: of answers; cached and reasoning tokens are among them.
        lost_tokens: of attempts that failed.
    """

    model: str
    template_version: str
    day: dt.date
    rows: int
    good: int
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    reasoning_tokens: int
    lost_tokens: int

    def usd(self, per_million_prompt_tokens: float, per_million_completion_tokens: float) -> float:
        """What the tokens cost; a failed attempt's count as its prompt's."""
        prompt = (self.prompt_tokens + self.lost_tokens) * per_million_prompt_tokens
        return (prompt + self.completion_tokens * per_million_completion_tokens) / 1e6


@dataclass
class Stats:
    """A ledger in figures.

    Args:
        rows: failures included; the same row in two files counts once.
        keys: different requests.
        statuses: rows of each status.
        groups: by model, template version and day.
        shards, parts: files; a part that others have replaced is no longer counted once a compaction removed it.
        bytes: on disk, everything in the folder.
    """

    rows: int = 0
    keys: int = 0
    statuses: dict[str, int] = field(default_factory=dict)
    groups: list[Group] = field(default_factory=list)
    shards: int = 0
    parts: int = 0
    bytes: int = 0


def stats(folder: Path) -> Stats:
    """Count a ledger, without any lock.

    Raises:
        LedgerError: no ledger there, or a damaged file.
    """
    exists(folder)
    found = Stats(shards=len(shard_paths(folder)), parts=len(part_paths(folder)))
    found.bytes = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    statuses: Counter[str] = Counter()
    with Reading(folder) as reading:
        sums = _grouped(_counted(table, found, statuses) for table in reading.stream([*_BY[:2], "status", *TOKENS]))
    found.statuses = dict(sorted(statuses.items()))
    found.groups = [Group(**row) for row in sums.sort_by([(name, "ascending") for name in _BY]).to_pylist()]
    return found


@dataclass(frozen=True, slots=True)
class Size:
    """What one kind of a ledger's files comes to."""

    rows: int
    bytes: int


def sizes(folder: Path) -> dict[str, Size]:
    """Rows and bytes in `shards` and in `parts`, told by indexes and footers: no row is read. Nothing where there is no ledger.

    Raises:
        LedgerError: a damaged file.
    """
    if not folder.is_dir():
        return {}
    with Reading(folder) as reading, reading.moment() as (shards, parts):
        found = {"shards": Size(sum(shard.count() for shard in shards), 0), "parts": Size(sum(part.rows for part in parts), 0)}
    files = {"shards": [path for path in folder.glob("answers*") if path.is_file()], "parts": part_paths(folder)}
    return {kind: replace(size, bytes=sum(path.stat().st_size for path in files[kind])) for kind, size in found.items()}


def _counted(table: pa.Table, found: Stats, statuses: Counter[str]) -> pa.Table:
    """Count rows, keys and statuses; return what the groups need. A key's rows never lie in two tables."""
    found.rows += table.num_rows
    found.keys += pc.count_distinct(table["key"]).as_py()
    statuses.update({row["values"]: row["counts"] for row in pc.value_counts(table["status"]).to_pylist()})
    ones = pa.array([1] * table.num_rows, pa.int64())
    return pa.table(
        {
            **{name: table[name] for name in (*_BY[:2], *TOKENS)},
            "day": table["ended_at"].cast(pa.date32()),
            "rows": ones,
            "good": pc.equal(table["status"], "ok").cast(pa.int64()),
        }
    )


def _grouped(tables: Iterator[pa.Table]) -> pa.Table:
    """Sum by group, a table at a time."""
    summed = ("rows", "good", *TOKENS)
    total: pa.Table | None = None
    for table in tables:
        both = table if total is None else pa.concat_tables([total.select(table.column_names), table])
        sums = both.group_by(list(_BY)).aggregate([(name, "sum") for name in summed])
        total = sums.rename_columns([name.removesuffix("_sum") for name in sums.column_names])
    return pa.table({name: pa.array([], pa.int64()) for name in (*_BY, *summed)}) if total is None else total
