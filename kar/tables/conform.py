"""Hold an Arrow table against its declaration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from kar.errors import TableError
from kar.tables.declared import TABLES
from kar.tables.schema import Column, IdTypes


def conform(name: str, table: pa.Table, ids: IdTypes) -> pa.Table:
    """Return the table in its declared column order, types and sort order.

    Args:
        name: which declaration.
        table: any row order; columns in any order, castable without loss.
        ids: the scenario's id types.

    Raises:
        TableError: a column is missing, unknown, of another type, null where it may not be, or a key repeats.
    """
    declared = TABLES[name]
    missing = [c for c in declared.column_names if c not in table.column_names]
    unknown = [c for c in table.column_names if c not in declared.column_names]
    if missing or unknown:
        raise TableError(f"table {name}: missing columns {missing}, unknown columns {unknown}", f"declared: {declared.column_names}")
    columns = [_column(name, column, table.column(column.name), ids) for column in declared.columns]
    fields = [pa.field(c.name, data.type, nullable=c.is_nullable) for c, data in zip(declared.columns, columns, strict=True)]
    result = pa.table(columns, schema=pa.schema(fields))
    if _is_in_order(declared.key, result):
        return result  # as most parts come: looking costs a twentieth of sorting, which would copy every text
    result = result.sort_by([(key, "ascending") for key in declared.key])
    _check_key(name, declared.key, result)
    return result


def _column(table: str, column: Column, data: pa.ChunkedArray, ids: IdTypes) -> pa.ChunkedArray:
    if data.null_count and not column.is_nullable:
        raise TableError(f"table {table}: column {column.name} holds {data.null_count} nulls, none are allowed")
    wanted = column.arrow(ids)
    if wanted is None:
        if not pa.types.is_fixed_size_list(data.type) or data.type.value_type != pa.float32():
            raise TableError(f"table {table}: column {column.name} is {data.type}, declared as fixed_size_list<float32>")
        wanted = pa.list_(pa.field("element", pa.float32(), nullable=False), data.type.list_size)
    try:
        return data if data.type == wanted else data.cast(wanted)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise TableError(f"table {table}: column {column.name} is {data.type}, declared as {wanted}: {error}") from error


def _is_in_order(key: tuple[str, ...], table: pa.Table) -> bool:
    """Whether each row's key is greater than that of the row before: sorted, and none twice. Not told of keys that hold nulls or NaN."""
    is_before: pa.Array | None = None
    for name in reversed(key):
        data = table.column(name).combine_chunks()
        former, latter = data.slice(0, max(len(data) - 1, 0)), data.slice(1)
        less = pc.less(former, latter)
        is_before = less if is_before is None else pc.or_(less, pc.and_(pc.equal(former, latter), is_before))
    return bool(pc.all(is_before, skip_nulls=False, min_count=0).as_py())


def _check_key(name: str, key: tuple[str, ...], table: pa.Table) -> None:
    """Raise if two rows share the key; the table is sorted by it, so equal keys are neighbours."""
    if table.num_rows < 2:
        return
    same: pa.ChunkedArray | None = None
    for column in key:
        data = table.column(column).combine_chunks()
        equal = pc.equal(data.slice(1), data.slice(0, len(data) - 1))
        same = equal if same is None else pc.and_(same, equal)
    repeats = pc.sum(same).as_py() or 0
    if repeats:
        row = pc.index(same, True).as_py()
        shown = {column: table.column(column)[row].as_py() for column in key}
        raise TableError(f"table {name}: key {key} repeats in {repeats} rows, first {shown}")


def grown(name: str, table: pa.Table, columns: Sequence[str]) -> pa.Table:
    """These columns of a table that may be older than their declaration: a list that it lacks is empty in each row.

    Args:
        name: which declaration.
        table: as its file holds it.
    """
    lacking = [column for column in TABLES[name].columns if column.name in columns and column.name not in table.column_names]
    for column in lacking:
        if column.type == "list<string>":
            table = table.append_column(column.name, pa.array([[]] * table.num_rows, pa.list_(pa.string())))
    return table.select(list(columns))


def subject_ids(column: pa.ChunkedArray | pa.Array) -> pa.ChunkedArray | pa.Array:
    """User or item ids as the text that `subject_id` columns hold (an int in decimal, a string as it is)."""
    return column.cast(pa.string())


def from_rows(name: str, rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    """Rows as a table of the declared columns, also where there are none. Of a table without ids of users or items."""
    return pa.Table.from_pylist(rows, schema=TABLES[name].schema(IdTypes()))
