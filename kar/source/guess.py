"""Look at a file nobody has described yet: its format, encoding and header, and what its columns look like."""

from __future__ import annotations

import codecs
import gzip
import re
from dataclasses import dataclass, field
from pathlib import Path

import duckdb

from kar.errors import SourceError
from kar.settings import Columns, SourceTable
from kar.source.find import first_line
from kar.source.scan import bare, quoted, scan

_LOOK_AT_ROWS = 20_000
_CHUNK_BYTES = 1 << 22
_NAMES: dict[str, str] = {
    "user_id": r"user(id)?|uid|u|reviewerid|customer(id)?|member(id)?|account(id)?|visitor(id)?|client(id)?|reader(id)?|usernumber",
    "item_id": r"item(id)?|iid|i|asin|parentasin|movie(id)?|film(id)?|product(id)?|sku|book(id)?|news(id)?|article(id)?|track(id)?|videoid|isbn|id",
    "event_at": r"timestamp|time|eventat|eventtime|ts|date|datetime|unixreviewtime|createdat|at|t|when|clickedat|ratedat",
    "rating": r"rating|stars?|overall|score|rate|r",
    "click": r"click(ed)?|isclick(ed)?|label|purchased|bought|watched|like(d)?",
    "text": r"reviewtext|review|text|comment|body|words",
    "title": r"title|name|movietitle|producttitle|productname|itemname|booktitle|headline|displayname",
    "description": r"description|plot|overview|about|abstract|synopsis|prose|summary",
}


@dataclass(frozen=True)
class Look:
    """One column as the first rows show it.

    Args:
        whole_share: share of the values that are whole numbers.
        number_share: share that are finite numbers.
        time_share: share that read as iso times (or the column is a timestamp).
        lowest, highest: of the numbers.
        distinct: values.
        length: mean characters.
        separator: of a list inside the text; empty: it looks like no list.
        is_time: whether the column's type is a timestamp or date.
    """

    name: str
    rows: int
    whole_share: float
    number_share: float
    time_share: float
    lowest: float | None
    highest: float | None
    distinct: int
    length: float
    separator: str
    is_time: bool

    @property
    def is_unique(self) -> bool:
        """Whether every row has its own value, or nearly so."""
        return self.distinct >= 0.99 * self.rows


@dataclass(frozen=True)
class Seen:
    """One file: how to read it, and its columns."""

    path: Path
    table: SourceTable
    looks: dict[str, Look] = field(default_factory=dict)
    relation: str = ""

    def named(self, ours: str, taken: set[str]) -> str | None:
        """The first untaken column whose name means one of ours; exact names of ours first."""
        free = [column for column in self.looks if column not in taken]
        exact = [column for column in free if bare(column).lower() == ours]
        meant = [column for column in free if re.fullmatch(_NAMES[ours], _squeezed(column))]
        return next(iter([*exact, *meant]), None)


def look(connection: duckdb.DuckDBPyConnection, name: str, path: Path) -> Seen:
    """Look at one file.

    Raises:
        SourceError: no such file, empty, or in no format that can be read.
    """
    if not path.is_file():
        raise SourceError(f"{name}: there is no file {path}", f"name an existing file with --{name}")
    if path.stat().st_size == 0:
        raise SourceError(f"{name}: {path} is empty", f"export the table again, or name another file with --{name}")
    table = _format(name, path)
    found = scan(connection, name, table, [path], path.parent)
    seen = f"seen_{name}"
    try:
        connection.execute(f"create table {seen} as select * from {found.relation} limit {_LOOK_AT_ROWS}")
        looks = {column: _look_at(connection, seen, column, kind) for column, kind in found.columns.items()}
    except duckdb.Error as error:
        raise SourceError(f"{name}: {path} cannot be read as {table.format}: {str(error).splitlines()[0]}", "check the file") from error
    if next(iter(looks.values())).rows == 0:
        raise SourceError(f"{name}: {path} holds no rows", f"export the table again, or name another file with --{name}")
    return Seen(path, table, looks, found.relation)


def _format(name: str, path: Path) -> SourceTable:
    if path.suffix in (".parquet", ".pq"):
        return SourceTable(path=path.name, format="parquet", columns=Columns())
    encoding = "utf-8" if _is_utf8(path) else "latin-1"
    line = first_line(name, path, encoding)
    if line.lstrip().startswith("{"):
        return SourceTable(path=path.name, format="jsonl", encoding=encoding, columns=Columns())
    form, separator = ("dat", "::") if "::" in line else ("tsv", "\t") if "\t" in line else ("csv", ",")
    cells = line.split(separator)
    if len(cells) == 1:
        raise SourceError(
            f"{name}: the first line of {path} holds no comma, tab or '::', and is no JSON: {line[:80]!r}",
            "export the table as Parquet, CSV, TSV or JSON lines",
        )
    has_header = not any(re.fullmatch(r"\s*-?\d+(\.\d+)?\s*", cell) for cell in cells)
    names = None if has_header else [f"column{place}" for place in range(1, len(cells) + 1)]
    return SourceTable(path=path.name, format=form, encoding=encoding, header=has_header, names=names, columns=Columns())


def _is_utf8(path: Path) -> bool:
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as stream:
            while chunk := stream.read(_CHUNK_BYTES):
                decoder.decode(chunk)
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        return False
    except (OSError, EOFError) as error:
        raise SourceError(f"{path} cannot be read: {error}", "check the file") from error
    return True


def _look_at(connection: duckdb.DuckDBPyConnection, table: str, column: str, kind: str) -> Look:
    is_time = kind.startswith("TIMESTAMP") or kind == "DATE"
    sql = f"""
        with cell as (select cast({quoted(column)} as varchar) as value from {table})
        select
            count(*),
            coalesce(avg(cast(try_cast(value as hugeint)::varchar = value as integer)), 0),
            coalesce(avg(cast(coalesce(isfinite(try_cast(value as double)), false) as integer)) filter (value is not null), 0),
            coalesce(avg(cast(try_cast(value as timestamptz) is not null as integer)) filter (value is not null), 0),
            min(try_cast(value as double)) filter (isfinite(try_cast(value as double))),
            max(try_cast(value as double)) filter (isfinite(try_cast(value as double))),
            count(distinct value),
            coalesce(avg(length(value)), 0),
            coalesce(avg(cast(contains(value, '|') as integer)), 0),
            coalesce(avg(cast(contains(value, ';') as integer)), 0)
        from cell"""
    [(rows, whole, number, time, lowest, highest, distinct, length, bars, semicolons)] = connection.execute(sql).fetchall()
    separator = "|" if bars > 0.05 else ";" if semicolons > 0.05 else " " if column.endswith(":token_seq") else ""
    return Look(column, rows, whole, number, 1.0 if is_time else time, lowest, highest, distinct, length, separator, is_time)


def _squeezed(column: str) -> str:
    return re.sub(r"[^a-z0-9]", "", bare(column).lower())
