"""One statement over the catalogue, which may read and do nothing else.

Three locks, each of which would do for most: the statement must be one SELECT (or EXPLAIN); it runs in a read-only transaction (a SELECT may
carry an INSERT in a WITH); and the database may open the files of its views and no other, by settings that can no longer be changed.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import duckdb
import pyarrow as pa

from kar.catalog import building, places
from kar.catalog.library import views
from kar.errors import CatalogError
from kar.settings import Settings
from kar.store import Home

_ALLOWED = (duckdb.StatementType.SELECT, duckdb.StatementType.EXPLAIN)
_BATCH_ROWS = 1_024
_READ_ONLY = "the catalogue is read-only"


@dataclass(frozen=True)
class Answered:
    """Column names and rows, which come as they are read."""

    columns: list[str]
    batches: Iterator[pa.RecordBatch]


class Asking:
    """An in-memory database with the views that a statement needs. Use as a context manager; the rows end with it.

    Raises:
        CatalogError: the statement is no question, or is wrong; a file below a view is damaged.
        ReleaseError: the current release is damaged.
        LedgerError: the ledger is.
    """

    def __init__(self, settings: Settings, home: Home, sql: str) -> None:
        self._sql = sql
        self._spill = tempfile.TemporaryDirectory(prefix="kar-sql-")
        self._connection = duckdb.connect(":memory:", config={"temp_directory": self._spill.name})
        try:
            _judge(self._connection, sql)
            self._connection.execute("set TimeZone = 'UTC'; set enable_progress_bar = false; set python_enable_replacements = false")
            files = building.build(self._connection, settings, home, building.wanted(sql), places.str_of, has_shards=True)
            self._lock(files)
        except BaseException:
            self.close()
            raise

    def _lock(self, files: list[Path]) -> None:
        listed = ", ".join(places.quoted(str(path)) for path in files)
        self._connection.execute(f"set allowed_paths = [{listed}]; set enable_external_access = false; set lock_configuration = true")
        self._connection.execute("begin transaction read only")

    def answer(self, parameters: dict[str, str] | None = None) -> Answered:
        """Run the statement. Raises CatalogError."""
        try:
            relation = self._connection.sql(self._sql, params=parameters or None)
            if relation is None:
                raise CatalogError("the statement gives no rows", "ask with select …")
            reader = relation.to_arrow_reader(_BATCH_ROWS)
        except duckdb.Error as error:
            raise _named(error) from error
        return Answered(list(reader.schema.names), self._batches(reader))

    def _batches(self, reader: pa.RecordBatchReader) -> Iterator[pa.RecordBatch]:
        try:
            yield from reader
        except duckdb.Error as error:
            raise _named(error) from error
        except (pa.ArrowException, OSError) as error:  # DuckDB's own message, come through Arrow
            raise CatalogError(f"the statement broke off: {error}", "mend it and ask again") from error

    def close(self) -> None:
        self._connection.close()
        self._spill.cleanup()

    def __enter__(self) -> Asking:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def _judge(connection: duckdb.DuckDBPyConnection, sql: str) -> None:
    """Refuse what is not one question, before anything is opened."""
    try:
        statements = connection.extract_statements(sql)
    except duckdb.Error as error:
        raise _named(error) from error
    if len(statements) != 1:
        raise CatalogError(f"that is {len(statements) or 'no'} statements, not one", "ask one question at a time: kar sql 'select …'")
    if (kind := statements[0].type) not in _ALLOWED:
        raise CatalogError(f"{_READ_ONLY}: {kind.name} is refused", "ask with select … ; what may be asked: kar sql 'from catalogue'")


def _named(error: duckdb.Error) -> CatalogError:
    text = str(error).strip()
    if isinstance(error, duckdb.PermissionException):
        return CatalogError(
            f"the catalogue opens its own files and no others: {text.splitlines()[0]}", "ask of its views: kar sql 'from catalogue'"
        )
    if isinstance(error, duckdb.TransactionException) and "read-only" in text:
        return CatalogError(f"{_READ_ONLY}: {text.splitlines()[0]}", "ask with select …")
    if isinstance(error, duckdb.CatalogException):
        return CatalogError(text, f"its views are {', '.join(sorted(views()))}; their columns: kar sql 'describe NAME'")
    if isinstance(error, duckdb.InvalidInputException) and "Values were not provided" in text:
        return CatalogError(text, "give each $name a value: --with name=value")
    return CatalogError(text, "mend the statement; the columns of a view: kar sql 'describe NAME'")
