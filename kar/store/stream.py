"""A declared table written part by part into one Parquet file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from kar import tables
from kar.errors import TableError
from kar.store.manifest import file_sha
from kar.tables import TABLES, IdTypes


class StreamWriter:
    """Takes a table in parts that follow each other in key order; holds at most one row group of them.

    Args:
        name: the declared table.
        path: the file to write.
        ids: the scenario's id types.
    """

    def __init__(self, name: str, path: Path, ids: IdTypes) -> None:
        self._name, self._path, self._ids = name, path, ids
        self._table = TABLES[name]
        self._writer: pq.ParquetWriter | None = None
        self._held: list[pa.Table] = []
        self._held_rows = self._rows = 0
        self._last: pa.Table | None = None

    def add(self, part: pa.Table) -> None:
        """Add rows, in any order among themselves, all after the rows before. Raises TableError."""
        made = tables.conform(self._name, part, self._ids)
        if made.num_rows == 0 and self._writer is not None:
            return
        self._check_follows(made)
        self._open(made.schema)
        self._held.append(made)
        self._held_rows += made.num_rows
        while self._held_rows >= self._table.row_group_rows:
            held = pa.concat_tables(self._held)
            self._put(held.slice(0, self._table.row_group_rows))
            self._held = [held.slice(self._table.row_group_rows)]
            self._held_rows = self._held[0].num_rows

    def close(self) -> dict[str, Any]:
        """Finish the file. Returns rows, sha and bytes for the manifest."""
        if self._writer is None:
            self.add(self._table.schema(self._ids).empty_table())
        assert self._writer is not None
        if self._held_rows or not self._rows:
            self._put(pa.concat_tables(self._held))
        self._writer.close()
        return {"rows": self._rows, "sha": file_sha(self._path), "bytes": self._path.stat().st_size}

    def abort(self) -> None:
        """Let go of the file; the runner removes its folder."""
        if self._writer is not None:
            self._writer.close()

    def _open(self, schema: pa.Schema) -> None:
        if self._writer is None:
            vectors = [c.name for c in self._table.columns if c.type == "vector"]
            self._writer = pq.ParquetWriter(
                self._path,
                schema,
                compression="zstd",
                compression_level=1,
                use_dictionary=[n for n in schema.names if n not in vectors] if vectors else True,
                column_encoding={f"{c}.list.element": "BYTE_STREAM_SPLIT" for c in vectors} or None,
            )

    def _put(self, group: pa.Table) -> None:
        assert self._writer is not None
        self._writer.write_table(group.combine_chunks(), row_group_size=self._table.row_group_rows)
        self._rows += group.num_rows

    def _check_follows(self, part: pa.Table) -> None:
        """Raise unless the part's first key is greater than the last one written."""
        if part.num_rows == 0:
            return
        first = part.select(list(self._table.key)).slice(0, 1)
        if self._last is not None:
            both = pa.concat_tables([self._last, first])
            order = pc.sort_indices(both, [(key, "ascending") for key in self._table.key]).to_pylist()
            if order != [0, 1] or self._last.to_pylist() == first.to_pylist():
                shown = first.to_pylist()[0]
                raise TableError(f"table {self._name}: key {shown} repeats, or comes in a later part than a greater key")
        self._last = part.select(list(self._table.key)).slice(part.num_rows - 1, 1)
