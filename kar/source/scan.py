"""One source table as a relation of DuckDB: which columns it has, and the SQL that reads them.

csv follows RFC 4180 (quotes may hold separators and line ends). In tsv and dat a quote is a plain character, as in the
MovieLens and RecBole files. In jsonl every line is one object; its numbers are kept as they are written.
"""

from __future__ import annotations

import csv
import difflib
import re
from dataclasses import dataclass
from pathlib import Path

import duckdb

from kar.errors import SourceError
from kar.settings import SourceTable
from kar.source.find import first_line, not_utf8

_DELIMITER = {"csv": ",", "tsv": "\t", "dat": "::"}
_RECBOLE = re.compile(r":(token|token_seq|float|float_seq)$")
_LINE_END = "\x1f"  # cannot stand in valid JSON, so a line is read whole
_KEYS_FROM_LINES = 10_000


@dataclass(frozen=True)
class Scan:
    """A table that can be read.

    Args:
        name: users, items or interactions.
        where: the file or files, for messages.
        columns: source column → DuckDB type; text formats have VARCHAR throughout.
        relation: SQL to select from, with all columns.
        rejects: name of the DuckDB table that gets the lines it cannot parse; empty where the format has none.
        is_json: whether a text may be a JSON list.
    """

    name: str
    where: str
    columns: dict[str, str]
    relation: str
    rejects: str = ""
    is_json: bool = False

    def column(self, wanted: str) -> str:
        """The source's column of that name; RecBole's `name:type` headers match with and without the type.

        Raises:
            SourceError: there is none; lists those there are and names the nearest.
        """
        if wanted in self.columns:
            return wanted
        untyped = {bare(column): column for column in self.columns}
        if bare(wanted) in untyped:
            return untyped[bare(wanted)]
        near = difflib.get_close_matches(wanted, list(self.columns), n=1, cutoff=0.4)
        raise SourceError(
            f"sources.{self.name}: {self.where} has no column {wanted!r}; it has {', '.join(self.columns)}",
            (f"did you mean {near[0]!r}? " if near else "") + f"mend sources.{self.name}.columns",
        )


def scan(connection: duckdb.DuckDBPyConnection, name: str, table: SourceTable, paths: list[Path], folder: Path) -> Scan:
    """Look at a source table without reading it.

    Args:
        paths: as `find` gives them.
        folder: sources.folder, where a SQL query looks for its files.

    Raises:
        SourceError: unreadable, empty, or not what the format says.
    """
    where = table.path if table.format == "duckdb" or len(paths) != 1 else str(paths[0])
    try:
        if table.format == "parquet":
            return _typed(connection, name, where, f"read_parquet({_sql([str(p) for p in paths])}, union_by_name = true)")
        if table.format == "duckdb":
            return _query(connection, name, table.path, folder)
        return (_jsonl if table.format == "jsonl" else _delimited)(connection, name, table, paths, where)
    except duckdb.Error as error:
        raise cannot_read(name, where, table.format, error) from error


def cannot_read(name: str, where: str, form: str, error: duckdb.Error) -> SourceError:
    return SourceError(
        f"sources.{name}: {where} cannot be read as {form}: {str(error).splitlines()[0]}", f"mend sources.{name}.format or the file"
    )


def _typed(connection: duckdb.DuckDBPyConnection, name: str, where: str, relation: str) -> Scan:
    described = connection.execute(f"describe select * from {relation}").fetchall()
    return Scan(name, where, {row[0]: row[1] for row in described}, relation)


def _query(connection: duckdb.DuckDBPyConnection, name: str, query: str, folder: Path) -> Scan:
    """A query; statements before the last one (ATTACH, for a database file) are run first."""
    connection.execute(f"set file_search_path = {_sql(str(folder.expanduser().resolve()))}")
    *before, last = connection.extract_statements(query)
    for statement in before:
        connection.execute(statement)
    return _typed(connection, name, "the query", f"({last.query.strip().rstrip(';')})")


def _delimited(connection: duckdb.DuckDBPyConnection, name: str, table: SourceTable, paths: list[Path], where: str) -> Scan:
    delimiter, quote = _DELIMITER[table.format], '"' if table.format == "csv" else ""
    header = first_line(name, paths[0], table.encoding)
    split = next(csv.reader([header])) if quote else header.split(delimiter)
    names = split if table.header else table.names or [f"column{place}" for place in range(len(split))]
    if len(names) != len(split) or len(set(names)) != len(names):
        raise SourceError(
            f"sources.{name}: the first line of {where} has {len(split)} columns, named {', '.join(names)}",
            f"give each column one name in sources.{name}.names" if not table.header else "mend the header: each column needs its own name",
        )
    options = {
        "delim": delimiter,
        "quote": quote,
        "escape": quote,
        "header": table.header,
        "encoding": table.encoding,
        "auto_detect": False,
        "columns": dict.fromkeys(names, "VARCHAR"),
        "store_rejects": True,
        "rejects_table": f"bad_{name}",
        "rejects_scan": f"bad_{name}_scan",
    }
    return Scan(name, where, dict.fromkeys(names, "VARCHAR"), _read_csv(paths, options), f"bad_{name}")


def _jsonl(connection: duckdb.DuckDBPyConnection, name: str, table: SourceTable, paths: list[Path], where: str) -> Scan:
    """Each line as text, its fields drawn out by key; a line that is no JSON object goes to the rejects."""
    first_line(name, paths[0], table.encoding)
    lines, rejects = f"line_{name}", f"bad_{name}"
    options = {
        "delim": _LINE_END,
        "quote": "",
        "escape": "",
        "header": False,
        "encoding": table.encoding,
        "auto_detect": False,
        "columns": {"line": "VARCHAR"},
        "store_rejects": True,
        "rejects_table": rejects,
        "rejects_scan": f"{rejects}_scan",
    }
    connection.execute(f"create table {lines} as select row_number() over () as line_number, line from {_read_csv(paths, options)}")
    raise_if_not_utf8(connection, name, where, rejects)
    connection.execute(f"delete from {lines} where line is null or trim(line) = ''")
    is_object = "case when json_valid(line) then json_type(line) = 'OBJECT' else false end"
    connection.execute(
        f"insert into {rejects} by name select line_number as line, line as csv_line, 'not a JSON object' as error_message,"
        f" 'CAST' as error_type from {lines} where not {is_object}"
    )
    connection.execute(f"delete from {lines} where not {is_object}")
    keys = _keys(connection, lines, table)
    if not keys:
        raise SourceError(f"sources.{name}: no line of {where} is a JSON object", f"mend sources.{name}.format or the file")
    drawn = ", ".join(f"field[{place}] as {quoted(key)}" for place, key in enumerate(keys, 1))
    places = _sql([f'$."{key}"' for key in keys])
    relation = f"(select {drawn} from (select line_number, json_extract_string(line, {places}) as field from {lines} order by line_number))"
    return Scan(name, where, dict.fromkeys(keys, "VARCHAR"), relation, rejects, is_json=True)


def _keys(connection: duckdb.DuckDBPyConnection, lines: str, table: SourceTable) -> list[str]:
    """Keys of the first lines in order of appearance, and mapped keys that only a later line has."""
    sql = f"select distinct unnest(json_keys(line)) from (select line from {lines} order by line_number limit {_KEYS_FROM_LINES})"
    keys = sorted(row[0] for row in connection.execute(sql).fetchall() if '"' not in row[0])
    for wanted in mapped(table):
        if wanted not in keys and '"' not in wanted:
            place = _sql('$."' + wanted + '"')
            found = connection.execute(f"select 1 from {lines} where json_exists(line, {place}) limit 1").fetchall()
            keys += [wanted] if found else []
    return keys


def mapped(table: SourceTable) -> list[str]:
    """Every source column that the settings map."""
    given = table.columns.model_dump(exclude={"attributes"}, exclude_none=True).values()
    return [column for value in given for column in ([value] if isinstance(value, str) else value)] + list(
        table.columns.attributes.values()
    )


def raise_if_not_utf8(connection: duckdb.DuckDBPyConnection, name: str, where: str, rejects: str) -> None:
    [(line,)] = connection.execute(f"select min(line) from {rejects} where error_type = 'INVALID ENCODING'").fetchall()
    if line is not None:
        raise not_utf8(name, Path(where), line)


def bare(column: str) -> str:
    """A column's name without RecBole's type: `user_id:token` is user_id."""
    return _RECBOLE.sub("", column)


def quoted(column: str) -> str:
    """A column name as SQL writes it."""
    return '"' + column.replace('"', '""') + '"'


def _read_csv(paths: list[Path], options: dict[str, object]) -> str:
    return f"read_csv({_sql([str(p) for p in paths])}, {', '.join(f'{key} = {_sql(value)}' for key, value in options.items())})"


def _sql(value: object) -> str:
    """A literal: text, truth, a list or a struct of them."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return "[" + ", ".join(_sql(part) for part in value) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_sql(key)}: {_sql(part)}" for key, part in value.items()) + "}"
    return "'" + str(value).replace("'", "''") + "'"
