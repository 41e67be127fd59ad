"""Rows that come in one order and are wanted in another: many more than memory holds, each with its place known beforehand."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.ipc as ipc

_HELD_BYTES = 32 * 2**20
_MOST_BUCKETS = 256  # each may keep a file open
_PLACE = "_place"


class Reorder:
    """Takes rows with their places 0 … count-1 in any order, gives them back in order of place.

    Each row goes to the bucket of its place; a bucket is small enough to be sorted in memory. Buckets lie in memory
    until they are 32 MiB together, then in files, so that few rows never touch the disk.

    Args:
        folder: for the files; they are gone when the `with` block ends.
        count: how many rows will come.
        bucket_rows: of one part given back, unless that would make more than 256 buckets.
        held_bytes: what may lie in memory.
    """

    def __init__(self, folder: Path, count: int, bucket_rows: int, held_bytes: int = _HELD_BYTES) -> None:
        self._parent, self._rows, self._held_bytes = folder, max(bucket_rows, -(-count // _MOST_BUCKETS)), held_bytes
        self._buckets: list[list[pa.Table]] = [[] for _ in range(-(-count // self._rows))]
        self._writers: dict[int, ipc.RecordBatchStreamWriter] = {}
        self._held = 0
        self._stack = contextlib.ExitStack()
        self._folder: Path | None = None

    def __enter__(self) -> Reorder:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def add(self, rows: pa.Table, place: np.ndarray) -> None:
        """Add rows.

        Args:
            place: int64 [rows], each given once over all calls.
        """
        if not rows.num_rows:
            return
        order = np.argsort(place, kind="stable")
        placed = place[order]
        sorted_rows = rows.take(pa.array(order)).append_column(_PLACE, pa.array(placed, pa.int64()))
        bucket = placed // self._rows
        starts = np.flatnonzero(np.concatenate([[True], bucket[1:] != bucket[:-1]]))
        for start, end in zip(starts.tolist(), [*starts[1:].tolist(), len(placed)], strict=True):
            self._buckets[int(bucket[start])].append(sorted_rows.slice(start, end - start))
        self._held += sorted_rows.nbytes
        if self._held > self._held_bytes:
            self._spill()

    def parts(self) -> Iterator[pa.Table]:
        """All rows in order of place, a bucket at a time. Once, after the last `add`."""
        for number, held in enumerate(self._buckets):
            tables = [*self._read(number), *held]
            self._buckets[number] = []
            if tables:
                yield pa.concat_tables(tables).sort_by(_PLACE).drop_columns(_PLACE)

    def _spill(self) -> None:
        """Append every bucket to its file."""
        if self._folder is None:
            made = tempfile.TemporaryDirectory(prefix=".reorder-", dir=self._parent)
            self._folder = Path(self._stack.enter_context(made))
        for number, held in enumerate(self._buckets):
            if held:
                table = pa.concat_tables(held).combine_chunks()
                if number not in self._writers:
                    options = ipc.IpcWriteOptions(compression="zstd")
                    self._writers[number] = ipc.new_stream(str(self._path(number)), table.schema, options=options)
                    self._stack.callback(self._writers[number].close)
                self._writers[number].write_table(table)
                held.clear()
        self._held = 0
        pa.default_memory_pool().release_unused()  # else what many threads allocated stays with each of them

    def _read(self, number: int) -> list[pa.Table]:
        if number not in self._writers:
            return []
        self._writers[number].close()
        with ipc.open_stream(str(self._path(number))) as stream:
            table = stream.read_all()
        self._path(number).unlink()
        return [table]

    def _path(self, number: int) -> Path:
        assert self._folder is not None
        return self._folder / f"{number}.arrows"
