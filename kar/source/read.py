"""Map a source table's columns to ours: `raw_user`, `raw_item`, `raw_interaction`, values still as the source wrote them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import duckdb

from kar.errors import SettingsError, SourceError
from kar.settings import SourceTable
from kar.source.scan import Scan, cannot_read, quoted, raise_if_not_utf8, scan

_WHOLE = ("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT", "UTINYINT", "USMALLINT", "UINTEGER", "UBIGINT", "UHUGEINT")
_NUMBER = (*_WHOLE, "FLOAT", "DOUBLE", "DECIMAL")
_TEXT = ("VARCHAR", "ENUM", "UUID", "JSON")
_TIME = ("TIMESTAMP", "TIMESTAMP WITH TIME ZONE", "TIMESTAMP_S", "TIMESTAMP_MS", "TIMESTAMP_NS", "DATE")
_FITS: dict[str, tuple[str, ...]] = {
    "user_id": (*_NUMBER, *_TEXT),
    "item_id": (*_NUMBER, *_TEXT),
    "event_at": (*_NUMBER, *_TEXT, *_TIME),
    "rating": (*_NUMBER, *_TEXT),
    "click": (*_NUMBER, *_TEXT, "BOOLEAN"),
    "title": (*_NUMBER, *_TEXT, "LIST"),
    "description": (*_NUMBER, *_TEXT, "LIST"),
    "text": (*_NUMBER, *_TEXT, "LIST"),
    "attributes": (*_NUMBER, *_TEXT, *_TIME, "BOOLEAN", "LIST"),
}
_NO_ATTRIBUTES = 'cast([] as struct(name varchar, "values" varchar[])[])'
_LARGEST_EXACT_FLOAT = 2**53 - 1


@dataclass(frozen=True)
class Kind:
    """One of the three tables a user brings.

    Args:
        name: its section, sources.<name>.
        raw: the table that `load` makes.
        needs: columns that must be mapped.
        columns: what the raw table has, besides source_row and, for users and items, attributes.
        has_attributes: whether attributes are read (else a native time is).
    """

    name: str
    raw: str
    needs: tuple[str, ...]
    columns: tuple[str, ...]
    has_attributes: bool


USERS = Kind("users", "raw_user", ("user_id",), ("user_id",), True)
ITEMS = Kind("items", "raw_item", ("item_id",), ("item_id", "title", "description"), True)
INTERACTIONS = Kind(
    "interactions",
    "raw_interaction",
    ("user_id", "item_id", "event_at"),
    ("user_id", "item_id", "event_at", "rating", "click", "text"),
    False,
)


def load(
    connection: duckdb.DuckDBPyConnection, kind: Kind, table: SourceTable | None, paths: list[Path], folder: Path, time_unit: str
) -> Scan | None:
    """Make the raw table of one kind, and add the lines that could not be parsed to `raw_bad_row`.

    A timestamp column is kept as `native_time`; sources.time_unit says nothing about it.

    Args:
        table: None: the user has no such table; the raw table is then empty.

    Returns:
        What was read, or None.

    Raises:
        SettingsError: a column that this kind needs is not mapped.
        SourceError: missing column, wrong type, wrong encoding, unreadable or empty file.
    """
    connection.execute("create table if not exists raw_bad_row (source varchar, source_row bigint, text varchar, fault varchar)")
    if table is None:
        empty = [f"cast(null as varchar) as {column}" for column in kind.columns]
        connection.execute(
            f"create table {kind.raw} as select cast(0 as bigint) as source_row, {', '.join(empty)}, {_NO_ATTRIBUTES} as attributes where false"
        )
        return None
    unmapped = [column for column in kind.needs if getattr(table.columns, column) is None]
    if unmapped:
        raise SettingsError(
            f"sources.{kind.name}.columns does not say which column is {unmapped[0]}",
            f'add {unmapped[0]} = "<column>" to sources.{kind.name}.columns',
        )
    found = scan(connection, kind.name, table, paths, folder)
    cells = [f"{_cell(found, table, column, time_unit)} as {column}" for column in kind.columns]
    if kind.has_attributes:
        cells.append(f"{_attributes(found, table)} as attributes")
    else:
        cells.append(f"{_native_time(found, table)} as native_time")
    try:
        connection.execute(
            f"create table {kind.raw} as select row_number() over () as source_row, {', '.join(cells)} from {found.relation}"
        )
    except duckdb.Error as error:
        raise cannot_read(kind.name, found.where, table.format, error) from error
    if found.rejects:
        _keep_bad_rows(connection, found)
    return found


def _keep_bad_rows(connection: duckdb.DuckDBPyConnection, found: Scan) -> None:
    raise_if_not_utf8(connection, found.name, found.where, found.rejects)
    connection.execute(
        f"insert into raw_bad_row select $source, line, any_value(csv_line), any_value(error_message) from {found.rejects} group by line",
        {"source": found.name},
    )


def _cell(found: Scan, table: SourceTable, ours: str, time_unit: str) -> str:
    """SQL for one of our columns, always VARCHAR."""
    wanted = getattr(table.columns, ours)
    if wanted is None:
        return "cast(null as varchar)"
    if isinstance(wanted, list):
        return _joined([_prose(found, ours, column) for column in wanted])
    column, base = _fitting(found, ours, wanted)
    if ours in ("title", "description", "text"):
        return _prose(found, ours, wanted)
    if ours in ("user_id", "item_id") and base in ("FLOAT", "DOUBLE"):
        # beyond 2^53 a float is no longer the id that was meant: better rejected than wrong
        return f"case when abs({column}) <= {_LARGEST_EXACT_FLOAT} then cast({column} as varchar) else 'float ' || {column} end"
    if ours == "event_at":
        return _time(found, column, base, time_unit)
    return f"cast({column} as varchar)"


def _time(found: Scan, column: str, base: str, time_unit: str) -> str:
    """The time as text; `_native_time` takes it from a timestamp column instead, whatever the unit."""
    if base in _NUMBER and time_unit == "iso":
        raise SourceError(
            f"sources.{found.name}: the time column {column} of {found.where} holds numbers, but sources.time_unit is 'iso'",
            "set sources.time_unit to s, ms or us",
        )
    # a float would be written as 9.783e+08 and the like; a decimal keeps every digit
    return f"cast(try_cast({column} as decimal(38, 6)) as varchar)" if base in ("FLOAT", "DOUBLE") else f"cast({column} as varchar)"


def _native_time(found: Scan, table: SourceTable) -> str:
    column, base = _fitting(found, "event_at", table.columns.event_at or "")
    return f"cast({column} as timestamptz)" if base in _TIME else "cast(null as timestamptz)"


def _fitting(found: Scan, ours: str, wanted: str) -> tuple[str, str]:
    """The quoted column and its base type. Raises SourceError if a column of ours cannot be read from that type."""
    source = found.column(wanted)
    whole = found.columns[source]
    base = "LIST" if whole.endswith("]") else re.sub(r"\(.*", "", whole)
    if base not in _FITS[ours]:
        raise SourceError(
            f"sources.{found.name}: column {source!r} of {found.where} is {whole}, which cannot be read as {ours}",
            f"map another column in sources.{found.name}.columns, or cast it before",
        )
    return quoted(source), base


def _prose(found: Scan, ours: str, wanted: str) -> str:
    """Text; a list of texts (native, or as JSON) becomes one text."""
    column, base = _fitting(found, ours, wanted)
    if base == "LIST":
        return f"array_to_string({column}, ' ')"
    if _is_json_text(found, base):
        return f"case when {_holds_list(column)} then array_to_string({_from_json(column)}, ' ') else cast({column} as varchar) end"
    return f"cast({column} as varchar)"


def _joined(parts: list[str]) -> str:
    """Several texts as one: '. ' between them, a space after a part that ends a sentence already, empty parts left out."""
    kept = [f"nullif(trim({part}), '')" for part in parts]
    ended = [f"case when regexp_matches({part}, '[.!?]$') then {part} else {part} || '.' end" for part in kept[:-1]]
    return f"rtrim(concat_ws(' ', {', '.join([*ended, kept[-1]])}))"


def _attributes(found: Scan, table: SourceTable) -> str:
    """A list of (name, values); a list column, a JSON list and a text with the separator of `lists` give several values."""
    if not table.columns.attributes:
        return _NO_ATTRIBUTES
    pairs = []
    for name, wanted in table.columns.attributes.items():
        column, base = _fitting(found, "attributes", wanted)
        if base == "LIST":
            values = f"cast({column} as varchar[])"
        elif name in table.lists:
            separator = table.lists[name].replace("'", "''")
            values = f"string_split(cast({column} as varchar), '{separator}')"
        else:
            values = f"[cast({column} as varchar)]"
        if _is_json_text(found, base):
            values = f"case when {_holds_list(column)} then {_from_json(column)} else {values} end"
        pairs.append(f"{{'name': '{name.replace(chr(39), chr(39) * 2)}', 'values': {values}}}")
    unknown = sorted(set(table.lists) - set(table.columns.attributes))
    if unknown:
        raise SettingsError(
            f"sources.{found.name}.lists names {unknown[0]!r}, which is no attribute of sources.{found.name}.columns.attributes",
            "name an attribute that is mapped",
        )
    return f"[{', '.join(pairs)}]"


def _is_json_text(found: Scan, base: str) -> bool:
    return base == "JSON" or found.is_json


def _holds_list(column: str) -> str:
    return f"(starts_with({column}, '[') and json_valid({column}))"


def _from_json(column: str) -> str:
    return f"cast(from_json({column}, '[\"VARCHAR\"]') as varchar[])"
