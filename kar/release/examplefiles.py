"""Examples in Parquet files: checked once, then read in pieces of a bounded size."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypeAlias

import pyarrow as pa
import pyarrow.parquet as pq

from kar.errors import ReleaseError
from kar.release.asof import Timeline, check_columns, times

PIECE_ROWS = 131_072
Shard: TypeAlias = tuple[int, tuple[int, ...]]
"""The place of a file, and some of its row groups."""


class ExampleFiles:
    """Parquet files of examples, all of one schema, read batch by batch.

    Raises:
        ReleaseError: no such file, not Parquet, no row, several schemas, or columns that do not do.
    """

    def __init__(self, path: str | Path) -> None:
        path = Path(path)
        self.paths = sorted(path.glob("*.parquet")) if path.is_dir() else [path]
        if not self.paths:
            raise ReleaseError(f"{path} holds no *.parquet", "name a Parquet file, or a folder of them")
        found = [_footer(one) for one in self.paths]
        self.schema = found[0][0]
        self._group_rows = [sizes for _, sizes in found]
        self.rows = sum(map(sum, self._group_rows))
        for one, (schema, _) in zip(self.paths, found, strict=True):
            if not schema.equals(self.schema):
                raise ReleaseError(f"{one} has other columns than {self.paths[0]}", "give all files of the examples one schema")
        check_columns(self.schema)
        if not self.rows:
            raise ReleaseError(f"{path} holds no examples", "name a file that has some")

    def batches(self, columns: list[str] | None = None, shards: Iterable[Shard] | None = None) -> Iterator[pa.Table]:
        """Pieces of at most 131,072 examples.

        Args:
            columns: None: all.
            shards: which row groups, in which order; None: all, in order.

        Raises:
            ReleaseError: a file is damaged or went away.
        """
        for number, groups in [(number, None) for number in range(len(self.paths))] if shards is None else shards:
            path = self.paths[number]
            try:
                with pq.ParquetFile(path, pre_buffer=True) as file:
                    wanted = range(file.num_row_groups) if groups is None else groups
                    for batch in file.iter_batches(PIECE_ROWS, row_groups=wanted, columns=columns):
                        if batch.num_rows:
                            yield pa.Table.from_batches([batch])
            except (pa.ArrowException, OSError) as error:
                raise ReleaseError(f"{path} cannot be read: {error}", "write the examples again, as Parquet") from error

    def shards(self) -> list[Shard]:
        """The files cut at their row groups into pieces of about 131,072 rows, in order: what may be dealt out and shuffled."""
        found: list[Shard] = []
        for number, sizes in enumerate(self._group_rows):
            groups: list[int] = []
            rows = 0
            for group, size in enumerate(sizes):
                if groups and rows + size > PIECE_ROWS:
                    found.append((number, tuple(groups)))
                    groups, rows = [], 0
                groups.append(group)
                rows += size
            found.append((number, tuple(groups)))
        return [(number, groups) for number, groups in found if groups]

    def served_by(self, timeline: Timeline) -> list[int]:
        """Places in `timeline.served` that the examples need: one pass over their times, before anything is written."""
        used: set[int] = set()
        for table in self.batches(["event_at"]):
            used.update(timeline.used(timeline.entries(times(table.column("event_at")))))
        return sorted(used)


def _footer(path: Path) -> tuple[pa.Schema, list[int]]:
    """Schema and rows of each row group."""
    try:
        with pq.ParquetFile(path) as file:
            sizes = [file.metadata.row_group(number).num_rows for number in range(file.num_row_groups)]
            return file.schema_arrow, sizes
    except FileNotFoundError as error:
        raise ReleaseError(f"there is no file {path}", "name the examples' Parquet file, or a folder of them") from error
    except (pa.ArrowException, OSError) as error:
        raise ReleaseError(f"{path} cannot be read as Parquet: {error}", "write the examples as Parquet") from error
