"""One SQLite file of a ledger: its formats, its checks, and what can be asked of it.

Format 2 adds server_version, retry_of and the digest of a row. A file of format 1 is read as it is and rewritten, in one
transaction, by the first process that opens it for writing; a file of any other format is refused by name.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa

from kar.errors import LedgerError
from kar.llm.ledger.answer import COLUMNS, INTEGERS, STORED, Answer, of_stored, stored, table_of
from kar.llm.ledger.places import named

FORMAT = 2
STREAM_ROWS = 1024
_KEYS_AT_ONCE = 5_000
_CHECK_WHOLE_BELOW_BYTES = 256 * 2**20
_LEAST_BYTES = 512  # SQLite's smallest page
_ADDED = ("server_version", "retry_of")  # in format 2
_INDEXES = (
    "CREATE INDEX IF NOT EXISTS answer_key ON answer (key, status)",
    "CREATE INDEX IF NOT EXISTS answer_retry ON answer (retry_of) WHERE retry_of <> ''",
    "CREATE TABLE IF NOT EXISTS moving (part TEXT NOT NULL, last_rowid INTEGER NOT NULL)",
)
_TABLE = f"""CREATE TABLE IF NOT EXISTS answer (
  {", ".join(f"{n} {'INTEGER' if n in INTEGERS else 'TEXT'} NOT NULL" for n in COLUMNS)}, digest BLOB NOT NULL
)"""
INSERT = f"INSERT INTO answer ({', '.join(STORED)}) VALUES ({', '.join('?' * len(STORED))})"


class Shard:
    """A connection that reads one SQLite file. Every method may raise LedgerError: damaged, of another format, unreadable."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with named(path):
            self._connection = connected(path)
        try:
            self._format = _format_of(path, self._connection)
        except BaseException:
            self._connection.close()
            raise

    @contextlib.contextmanager
    def snapshot(self) -> Iterator[frozenset[str]]:
        """All reads inside see the same rows. Yields the names of the parts that count only once this shard let go of their rows."""
        with named(self.path):
            self._connection.execute("BEGIN")
        try:
            with named(self.path):
                # a migration may have come between this snapshot and the last one
                self._format = _format_of(self.path, self._connection)
                moving = self._connection.execute("SELECT part FROM moving") if self._format == FORMAT else ()
                names = frozenset(row[0] for row in moving)
            yield names
        finally:
            with contextlib.suppress(sqlite3.Error):
                self._connection.execute("COMMIT")

    @property
    def is_begun(self) -> bool:
        """Whether it had its tables at the last snapshot: another process may be about to make them."""
        return self._format != 0

    def held(self, keys: Sequence[str]) -> set[str]:
        """Those keys that have a good answer. Reads the index alone."""
        found: set[str] = set()
        for part in _slices(keys):
            found.update(
                row[0] for row in self._rows("SELECT key FROM answer WHERE status = 'ok' AND key IN (SELECT value FROM json_each(?))", part)
            )
        return found

    def endings(self, keys: Sequence[str]) -> Iterator[tuple[str, str]]:
        """Key and finish reason of every good row of the keys."""
        for part in _slices(keys):
            yield from self._rows(
                "SELECT key, finish_reason FROM answer WHERE status = 'ok' AND key IN (SELECT value FROM json_each(?))", part
            )

    def good(self, keys: Sequence[str]) -> Iterator[tuple[Answer, bytes]]:
        """Every good row of the keys."""
        for part in _slices(keys):
            yield from self._answers("WHERE status = 'ok' AND key IN (SELECT value FROM json_each(?))", part)

    def every(self, keys: Sequence[str]) -> Iterator[tuple[Answer, bytes]]:
        """Every row of the keys, and every row that asks one of them again. A row may come twice."""
        for part in _slices(keys):
            yield from self._answers("WHERE key IN (SELECT value FROM json_each(?))", part)
            if self._format == FORMAT:
                yield from self._answers("WHERE retry_of <> '' AND retry_of IN (SELECT value FROM json_each(?))", part)

    def digests(self, keys: Sequence[str]) -> set[bytes]:
        """The digests of every row of the keys."""
        if self._format != FORMAT:
            return {digest for _, digest in self.every(keys)}
        sql = "SELECT digest FROM answer WHERE key IN (SELECT value FROM json_each(?))"
        return {row[0] for part in _slices(keys) for row in self._rows(sql, part)}

    def stream(self, columns: Sequence[str], last_rowid: int | None = None) -> Iterator[pa.Table]:
        """All rows, by key. Reads whole rows; what the columns leave out is dropped."""
        where = "" if last_rowid is None else f"WHERE rowid <= {last_rowid:d}"
        with named(self.path):
            cursor = self._connection.execute(f"SELECT {self._stored()} FROM answer {where} ORDER BY key")
            while rows := cursor.fetchmany(STREAM_ROWS):
                yield table_of(rows).select(columns)

    def by_rowid(self) -> Iterator[tuple[int, Answer, bytes]]:
        """All rows with their row numbers, oldest first."""
        with named(self.path):
            for rowid, *row in self._connection.execute(f"SELECT rowid, {self._stored()} FROM answer ORDER BY rowid"):
                yield (rowid, *self._read(row))

    def count(self) -> int:
        with named(self.path):
            return int(self._connection.execute("SELECT count(*) FROM answer").fetchone()[0])

    def fault(self) -> str:
        """What SQLite's own check of every page and index finds first; empty if nothing."""
        with named(self.path):
            return _fault(self._connection, "integrity_check")

    def close(self) -> None:
        self._connection.close()

    def _stored(self) -> str:
        """The columns of a stored row; those that format 1 has not, as constants."""
        if self._format == FORMAT:
            return ", ".join(STORED)
        return ", ".join("''" if n in _ADDED else "NULL" if n == "digest" else n for n in STORED)

    def _answers(self, where: str, keys: Sequence[str]) -> Iterator[tuple[Answer, bytes]]:
        for row in self._rows(f"SELECT {self._stored()} FROM answer {where}", keys):
            with named(self.path):
                read = self._read(row)
            yield read

    def _rows(self, sql: str, keys: Sequence[str]) -> list[Any]:
        with named(self.path):
            return self._connection.execute(sql, [orjson.dumps(keys).decode()]).fetchall()

    def _read(self, row: Sequence[Any]) -> tuple[Answer, bytes]:
        try:
            return of_stored(row)
        except (TypeError, ValueError) as error:
            raise sqlite3.DatabaseError(f"a row cannot be read ({error})") from error


def opened(path: Path) -> sqlite3.Connection:
    """The writer's connection to a shard that was checked, and migrated if it was of format 1.

    Every page is checked if the file is small or was not closed in order. The caller holds the shard's lock.

    Raises:
        LedgerError: damaged, of another format, no room.
    """
    was_torn = path.with_name(path.name + "-wal").exists()
    with named(path):
        connection = connected(path)
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = NORMAL")
            connection.execute("PRAGMA secure_delete = OFF")  # rows that moved to a part need not be overwritten with zeros
            version = _format_of(path, connection)
            is_checked = was_torn or path.stat().st_size < _CHECK_WHOLE_BELOW_BYTES
            if is_checked and (verdict := _fault(connection, "integrity_check" if was_torn else "quick_check")):
                raise sqlite3.DatabaseError(verdict)
            _at_format_2(connection, version)
        except BaseException:
            connection.close()
            raise
        return connection


def connected(path: Path) -> sqlite3.Connection:
    """A plain connection. Text that is not UTF-8 does not raise: the row's digest tells.

    Raises:
        sqlite3.DatabaseError: the file was cut to nearly nothing; SQLite would take it for a new one.
    """
    if path.exists() and 0 < path.stat().st_size < _LEAST_BYTES:
        raise sqlite3.DatabaseError(f"only {path.stat().st_size} bytes are left of it")
    connection = sqlite3.connect(path, isolation_level=None, timeout=30, check_same_thread=False)
    connection.text_factory = lambda data: data.decode("utf-8", "replace")
    return connection


def _format_of(path: Path, connection: sqlite3.Connection) -> int:
    """0 for a file that holds nothing yet."""
    with named(path):
        version = int(connection.execute("PRAGMA user_version").fetchone()[0])
    if version not in (0, 1, FORMAT):
        raise LedgerError(f"the ledger {path} has format {version}, this kar reads 1 and {FORMAT}", "use the kar that wrote it")
    return version


def _at_format_2(connection: sqlite3.Connection, version: int) -> None:
    """Make the tables, or bring those of format 1 to format 2: all of it, or nothing."""
    if version == FORMAT:
        return
    connection.execute("BEGIN IMMEDIATE")
    try:
        if version == 1:
            for name in _ADDED:
                connection.execute(f"ALTER TABLE answer ADD COLUMN {name} TEXT NOT NULL DEFAULT ''")
            connection.execute("ALTER TABLE answer ADD COLUMN digest BLOB")
            connection.create_function("kar_digest", len(COLUMNS), _digest_of_row, deterministic=True)
            connection.execute(f"UPDATE answer SET digest = kar_digest({', '.join(COLUMNS)})")
            connection.execute("DROP INDEX IF EXISTS answer_key")
        else:
            connection.execute(_TABLE)
        for statement in _INDEXES:
            connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {FORMAT}")
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def _digest_of_row(*values: Any) -> bytes:
    return bytes(stored(of_stored((*values, None))[0])[-1])


def _fault(connection: sqlite3.Connection, check: str) -> str:
    verdict = str(connection.execute(f"PRAGMA {check}(1)").fetchone()[0])
    if verdict != "ok":
        return verdict
    if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'answer'").fetchone():
        return ""
    # rows are only added at the end and only leave from the beginning, so a hole is a loss that no page shows
    first, last, count = connection.execute("SELECT coalesce(min(rowid), 1), coalesce(max(rowid), 0), count(*) FROM answer").fetchone()
    return "" if last - first + 1 == count else f"{last - first + 1 - count} rows between {first} and {last} are gone"


def _slices(keys: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(keys), _KEYS_AT_ONCE):
        yield keys[start : start + _KEYS_AT_ONCE]
