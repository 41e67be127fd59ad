"""Judged answers on their way to the tables: near-duplicates are known only when all are judged, so they wait on disk."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq


class Spool:
    """One sorted table that is written once and read once after that.

    Args:
        path: of a file that is gone when the stage ends.
        schema: of its rows.
    """

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self._path, self.schema = path, schema
        self._writer: pq.ParquetWriter | None = pq.ParquetWriter(path, schema, compression="zstd")

    def add(self, rows: pa.Table | list[dict[str, Any]]) -> None:
        """Add rows, after all rows before in the key's order."""
        table = pa.Table.from_pylist(rows, schema=self.schema) if isinstance(rows, list) else rows
        if table.num_rows and self._writer is not None:
            self._writer.write_table(table.select(self.schema.names).cast(self.schema))

    def parts(self) -> Iterator[pa.Table]:
        """All rows in the order in which they came."""
        self.close()
        with pq.ParquetFile(self._path) as file:
            for batch in file.iter_batches(8_192):
                yield pa.Table.from_batches([batch])

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None


@contextlib.contextmanager
def spools(folder: Path, **schemas: pa.Schema) -> Iterator[dict[str, Spool]]:
    """Spools by name in a folder of their own, which is gone afterwards.

    Args:
        folder: of the partition being made, so that they lie on the same disk.
    """
    with tempfile.TemporaryDirectory(prefix=".spool-", dir=folder) as place, contextlib.ExitStack() as stack:
        made = {name: Spool(Path(place) / f"{name}.parquet", schema) for name, schema in schemas.items()}
        for spool in made.values():
            stack.callback(spool.close)
        yield made
