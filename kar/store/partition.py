"""What a stage gets to read from (`Inputs`) and write to (`Output`). Undeclared tables are errors on both sides."""

from __future__ import annotations

import contextlib
import datetime as dt
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from kar.errors import StageError
from kar.flow import Stage
from kar.store.paths import Home, Partition
from kar.store.stream import StreamWriter
from kar.tables import IdTypes

_REJECTED_EXAMPLES = 20


@dataclass(frozen=True)
class Inputs:
    """A stage's declared inputs, resolved to partitions for one date.

    Args:
        date: the partition date D.
        cutoff_at: the end of D in UTC.
        as_of: the clock: when this run started, UTC. Stages take the time from here and nowhere else.
        home: the scenario's folder, for the ledger, models and published releases.
        ids: the scenario's id types.
        partitions: (stage, table) → the partition that holds it; None only for at="previous".
        facts: what the stage's own `facts` told for this run; empty if it has none.
    """

    stage: Stage
    date: dt.date
    cutoff_at: dt.datetime
    as_of: dt.datetime
    home: Home
    ids: IdTypes
    partitions: dict[tuple[str, str], Partition | None]
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def work(self) -> Path:
        """A folder for what a later run goes on from if this one is killed; gone once the partition is sealed. It may not be there yet."""
        return self.home.partition(self.stage.name, self.date).work

    def path(self, table: str, stage: str | None = None) -> Path | None:
        """The Parquet file of a declared table; None where an earlier partition was declared and none exists.

        Args:
            stage: needed only when two stages' tables share the name.
        """
        found = [(key, part) for key, part in self.partitions.items() if key[1] == table and stage in (None, key[0])]
        if len(found) != 1:
            reads = ", ".join(f"{s}.{t}" for s, t in self.partitions)
            raise StageError(f"stage {self.stage.name} asks for table {table!r}, which it does not declare; it reads {reads}")
        partition = found[0][1]
        return None if partition is None else partition.table(table)

    def table(self, table: str, stage: str | None = None, columns: list[str] | None = None) -> pa.Table:
        """The declared table, or some columns of it. Raises StageError if it is undeclared or (at="previous") absent."""
        return pq.read_table(self._there(table, stage), columns=columns)

    def maybe_table(self, table: str, stage: str | None = None) -> pa.Table | None:
        """The declared table, or None if no earlier partition exists."""
        path = self.path(table, stage)
        return None if path is None else pq.read_table(path)

    def stream(self, table: str, columns: list[str] | None = None, rows: int = 8_192) -> Iterator[pa.Table]:
        """The declared table in parts of at most `rows` rows, in the file's (key) order. Holds one row group at a time.

        Raises:
            StageError: as `table`.
        """
        with pq.ParquetFile(self._there(table), pre_buffer=False) as file:
            for batch in file.iter_batches(rows, columns=columns):
                yield pa.Table.from_batches([batch])

    def count(self, table: str) -> int:
        """Rows of a declared table, without reading it. Raises StageError as `table`."""
        return int(pq.read_metadata(self._there(table)).num_rows)

    def _there(self, table: str, stage: str | None = None) -> Path:
        path = self.path(table, stage)
        if path is None:
            raise StageError(f"stage {self.stage.name}: no earlier partition holds {table}; use maybe_table")
        return path

    def folder(self, stage: str) -> Path | None:
        """The partition folder of a declared input stage (for files beside the tables, such as checkpoints)."""
        for (name, _), partition in self.partitions.items():
            if name == stage:
                return None if partition is None else partition.path
        raise StageError(f"stage {self.stage.name} asks for the folder of {stage!r}, which it does not declare")


@dataclass
class Output:
    """Where a stage writes. The runner verifies, writes the manifest last and renames the folder into place."""

    stage: Stage
    folder: Path
    ids: IdTypes
    tables: dict[str, dict[str, Any]] = field(default_factory=dict)
    rejected: dict[str, int] = field(default_factory=dict)
    rejected_examples: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    figures: dict[str, Any] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)

    def write(self, name: str, table: pa.Table) -> None:
        """Write a declared table, conformed and sorted by its key, so that equal rows give equal bytes.

        Raises:
            StageError: the stage does not declare it, or wrote it before.
            TableError: it does not match its declaration.
        """
        self.write_stream(name, [table])

    @contextlib.contextmanager
    def writer(self, name: str) -> Iterator[StreamWriter]:
        """Write a declared table part by part, in key order; the bytes do not depend on how it was cut.

        Raises:
            StageError, TableError: as `write`; or a part begins before the end of the one before it.
        """
        self._claim(name)
        writer = StreamWriter(name, self.folder / f"{name}.parquet", self.ids)
        try:
            yield writer
        except BaseException:
            writer.abort()
            raise
        self.tables[name] = writer.close()

    def write_stream(self, name: str, parts: Iterable[pa.Table]) -> None:
        """`writer` for parts that come from an iterator. Raises as `writer`."""
        with self.writer(name) as writer:
            for part in parts:
                writer.add(part)

    def _claim(self, name: str) -> None:
        if name not in self.stage.writes or name in self.tables:
            raise StageError(f"stage {self.stage.name} writes {name!r}; it declares {self.stage.writes}, each once")

    def reject(self, reason: str, count: int, examples: list[dict[str, Any]] | None = None) -> None:
        """Count rows left out for a declared reason; keep up to 20 of them to show. A count of 0 is recorded too."""
        if reason not in self.stage.rejects:
            raise StageError(f"stage {self.stage.name} rejects for {reason!r}, which it does not declare: {sorted(self.stage.rejects)}")
        self.rejected[reason] = self.rejected.get(reason, 0) + count
        shown = self.rejected_examples.setdefault(reason, [])
        shown.extend((examples or [])[: _REJECTED_EXAMPLES - len(shown)])
        if not shown:
            del self.rejected_examples[reason]

    def record(self, **figures: Any) -> None:
        """Figures for the manifest: numbers, short texts, small lists and dicts of them; units in the names."""
        self.figures.update(figures)

    def warn(self, sentence: str) -> None:
        """A sentence for the manifest, the log and the report."""
        self.warnings.append(sentence)
