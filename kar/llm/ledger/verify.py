"""Is every row still what was written? Every page, digest and key is computed again."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from kar.errors import LedgerError
from kar.llm.ledger.answer import SCHEMA, fault, of_table
from kar.llm.ledger.parts import Part
from kar.llm.ledger.places import part_paths, shard_paths
from kar.llm.ledger.reading import Row
from kar.llm.ledger.shard import Shard
from kar.llm.ledger.transfer import exists

_NAMED = 20


@dataclass
class Verified:
    """What a check found.

    Args:
        rows: that were read.
        faults: how many things are wrong.
        first: the first of them, each naming the file and the row.
    """

    rows: int = 0
    faults: int = 0
    first: list[str] = field(default_factory=list)

    def add(self, what: str) -> None:
        self.faults += 1
        if len(self.first) < _NAMED:
            self.first.append(what)


def verify(folder: Path) -> Verified:
    """Check every file of a ledger, without any lock: SQLite's pages, parts' digests, each row's key and fields.

    Raises:
        LedgerError: no ledger there. What is wrong is told, not raised.
    """
    exists(folder)
    found = Verified()
    for path in shard_paths(folder):
        with _told(found), contextlib.closing(Shard(path)) as shard, shard.snapshot():
            if not shard.is_begun:
                continue
            if why := shard.fault():
                found.add(f"{path.name}: {why}")
            _check(found, path.name, ((f"row {rowid}", (answer, digest)) for rowid, answer, digest in shard.by_rowid()))
    for path in part_paths(folder):
        with _told(found), contextlib.closing(Part(path)) as part:
            if why := part.fault():
                found.add(f"{path.name}: {why}")
            _check(found, path.name, _rows_of(part))
    return found


def _check(found: Verified, name: str, rows: Iterable[tuple[str, Row]]) -> None:
    for place, row in rows:
        found.rows += 1
        if why := fault(*row):
            found.add(f"{name}: {place}: {why}")


def _rows_of(part: Part) -> Iterator[tuple[str, Row]]:
    for group, table in enumerate(part.stream(SCHEMA.names)):
        for number, row in enumerate(of_table(table)):
            yield f"row group {group}, row {number}", row


@contextlib.contextmanager
def _told(found: Verified) -> Iterator[None]:
    """A file that cannot be read to its end is one of the faults."""
    try:
        yield
    except LedgerError as error:
        found.add(error.what)
    except FileNotFoundError:  # a part that grew together with others meanwhile
        return
