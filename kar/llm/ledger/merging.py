"""Many streams of rows, each by key, become one: all rows of a key together, oldest first, the same row once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

ORDER = ("key", "ended_at", "digest")


def in_key_order(streams: Iterable[Iterator[pa.Table]]) -> Iterator[pa.Table]:
    """Merge streams whose tables hold at least the columns of `ORDER`, by key.

    Holds about two tables of each stream at a time. No key's rows are spread over two of the tables that come out, so the
    result does not depend on how the rows were spread over the streams.
    """
    heads = [_Head(stream) for stream in streams]
    while heads:
        going = [h for h in heads if not h.is_done]
        bound = min((h.last for h in going), default=None)
        pieces = [piece for h in heads if (piece := h.below(bound)).num_rows]
        if pieces:
            yield _once(pa.concat_tables(pieces).sort_by([(name, "ascending") for name in ORDER]))
        for head in going:
            if head.last == bound:
                head.fetch()
        heads = [h for h in heads if not h.is_done or h.table.num_rows]


class _Head:
    """The part of a stream that has been read and not yet passed on."""

    def __init__(self, stream: Iterator[pa.Table]) -> None:
        self._stream = stream
        self.is_done = False
        self.last = ""
        self.table = pa.table({})
        self.fetch()

    def fetch(self) -> None:
        """Read one table more."""
        table = next((t for t in self._stream if t.num_rows), None)
        if table is None:
            self.is_done = True
            return
        self.table = pa.concat_tables([self.table, table]) if self.table.num_rows else table
        self.last = table.column("key")[-1].as_py()

    def below(self, bound: str | None) -> pa.Table:
        """Take the rows whose key is smaller; all of them if there is no bound."""
        if bound is None or not self.table.num_rows:
            taken, self.table = self.table, self.table.slice(0, 0)
            return taken
        count = pc.sum(pc.less(self.table.column("key"), bound)).as_py() or 0
        taken, self.table = self.table.slice(0, count), self.table.slice(count)
        return taken


def _once(table: pa.Table) -> pa.Table:
    """Leave out rows that equal the row before them."""
    if table.num_rows < 2:
        return table
    digests = table.column("digest").combine_chunks()
    if isinstance(digests, pa.ChunkedArray):
        digests = digests.chunk(0)
    start = digests.offset * 32
    rows = np.frombuffer(digests.buffers()[1], dtype=np.uint8)[start : start + 32 * table.num_rows].reshape(-1, 32)
    is_new = np.concatenate([[True], (rows[1:] != rows[:-1]).any(axis=1)])
    return table if is_new.all() else table.filter(pa.array(is_new))
