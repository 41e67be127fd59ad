"""Tables sorted by (view, subject_id), walked side by side: each yields its rows up to a key, none is held whole."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import pyarrow as pa
import pyarrow.compute as pc

Key = tuple[str, str]  # view, subject_id
_BETWEEN = "\x00"  # stands in no view's name, so that joined keys are as different as the pairs


class Keyed:
    """The rows of a sorted table, taken from the front.

    Args:
        schema: of the parts.
        parts: the table in pieces, in key order.
    """

    def __init__(self, schema: pa.Schema, parts: Iterable[pa.Table]) -> None:
        self._parts: Iterator[pa.Table] = iter(parts)
        self._held: list[pa.Table] = [schema.empty_table()]

    def upto(self, last: Key | None) -> pa.Table:
        """The rows whose key is at most `last` and that were not taken yet; None: all that are left."""
        while not self._holds_beyond(last):
            part = next(self._parts, None)
            if part is None:
                break
            self._held.append(part)
        held = pa.concat_tables(self._held)
        count = held.num_rows if last is None else _count_upto(held, last)
        self._held = [held.slice(count)]
        return held.slice(0, count)

    def _holds_beyond(self, last: Key | None) -> bool:
        end = self._held[-1]
        return last is not None and end.num_rows > 0 and keys(end.slice(end.num_rows - 1)) > [last]


def keys(table: pa.Table) -> list[Key]:
    """(view, subject_id) of each row."""
    return list(zip(table.column("view").to_pylist(), table.column("subject_id").to_pylist(), strict=True))


def joined(table: pa.Table) -> pa.ChunkedArray:
    """One text a row that is equal where view and subject are: for `is_in` and `index_in`."""
    return pc.binary_join_element_wise(table.column("view"), table.column("subject_id"), _BETWEEN)


def _count_upto(table: pa.Table, last: Key) -> int:
    """How many rows of a sorted table have a key of at most `last`. Arrow and Python order texts alike (by code point)."""
    view, subject = table.column("view"), table.column("subject_id")
    is_before = pc.or_(pc.less(view, last[0]), pc.and_(pc.equal(view, last[0]), pc.less_equal(subject, last[1])))
    return int(pc.sum(is_before).as_py() or 0)
