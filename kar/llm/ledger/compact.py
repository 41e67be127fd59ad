"""Rows move from SQLite to Parquet, and small parts grow together. A kill between any two steps loses and doubles nothing.

Into a part:  write it under a hidden name · note its name in the shard · give it its name · forget the rows and the note
              A noted part does not count for readers; whoever opens the shard next ends or undoes what a note stands for.
Together:     write the larger part, which names those it replaces, under a hidden name · give it its name · remove the others
              A replaced part does not count; the next compaction removes what is left of them.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from kar.errors import LedgerError
from kar.llm.ledger.answer import SCHEMA
from kar.llm.ledger.merging import in_key_order
from kar.llm.ledger.parts import Part, name_of, write_rows
from kar.llm.ledger.places import named, part_paths, parts_folder, shard_paths
from kar.llm.ledger.shard import Shard

_PARTS_TOGETHER = 8
_LARGEST_ROWS = 2**20  # a part with more rows is left as it is


def compact(folder: Path, shard: Path, connection: sqlite3.Connection) -> int:
    """Move a shard's rows into a part, then let small parts grow together.

    Args:
        connection: the writer's; nothing is put meanwhile. The caller holds the shard's lock.

    Returns:
        the number of rows moved.

    Raises:
        LedgerError: no room, or something is damaged; every row stays readable.
    """
    finish(folder, shard, connection)
    moved = _move(folder, shard, connection)
    with only_one(parts_folder(folder)) as is_mine:
        if is_mine:
            _grow(folder)
    return moved


def finish(folder: Path, shard: Path, connection: sqlite3.Connection) -> None:
    """End or undo what a compaction of this shard left half done. The caller holds the shard's lock."""
    partial_path(folder, shard.name).unlink(missing_ok=True)
    with named(shard):
        for part, last_rowid in connection.execute("SELECT part, last_rowid FROM moving").fetchall():
            connection.execute("BEGIN IMMEDIATE")
            if (parts_folder(folder) / part).exists():
                _forget(connection, last_rowid)
            connection.execute("DELETE FROM moving")
            connection.execute("COMMIT")


def scrub(shard: Path, connection: sqlite3.Connection) -> None:
    """Write a shard's file anew, so that nothing of deleted rows is left in its free pages or its log. The caller holds its lock.

    Raises:
        LedgerError: a reader stands in the way.
    """
    with named(shard):
        connection.execute("PRAGMA secure_delete = ON")
        try:
            connection.execute("VACUUM")
            is_busy = bool(connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0])
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) and "busy" not in str(error):
                raise
            is_busy = True
        finally:
            connection.execute("PRAGMA secure_delete = OFF")
    if is_busy:
        raise LedgerError(f"another process reads the ledger {shard}, so its free pages cannot be written anew", "end it, then run again")


def _move(folder: Path, shard: Path, connection: sqlite3.Connection) -> int:
    with named(shard):
        last_rowid = connection.execute("SELECT max(rowid) FROM answer").fetchone()[0]
    if last_rowid is None:
        return 0
    partial = partial_path(folder, shard.name)
    reader = Shard(shard)
    try:
        with _written(partial), reader.snapshot():
            rows = write_rows(partial, in_key_order([reader.stream(SCHEMA.names, last_rowid)]))
    finally:
        reader.close()
    name = name_of(partial)
    with named(shard):
        connection.execute("INSERT INTO moving VALUES (?, ?)", [name, last_rowid])
    place(partial, name)
    finish(folder, shard, connection)
    _shrink(connection)
    return rows


def _grow(folder: Path) -> None:
    """Merge parts of about one size where there are many of them. The caller is the only one that does."""
    parts = [Part(path) for path in part_paths(folder)]
    try:
        replaced = frozenset[str]().union(*(part.replaces for part in parts))
        for part in parts:
            if part.path.name in replaced:
                part.path.unlink()
        # after the parts were listed: one that is listed here and not noted any more is there for good
        noted = _noted(folder)
        sizes: dict[int, list[Part]] = {}
        for part in parts:
            if part.path.name not in replaced | noted and part.rows < _LARGEST_ROWS:
                sizes.setdefault(part.rows.bit_length() // 3, []).append(part)
        for together in sizes.values():
            if len(together) >= _PARTS_TOGETHER:
                _merge(folder, together)
    finally:
        for part in parts:
            part.close()


def _merge(folder: Path, parts: list[Part]) -> None:
    partial = partial_path(folder, "merged")
    with _written(partial):
        write_rows(partial, in_key_order([p.stream(SCHEMA.names) for p in parts]), replaces=[p.path.name for p in parts])
    place(partial, name_of(partial))
    for part in parts:
        part.path.unlink()


def _noted(folder: Path) -> frozenset[str]:
    """Parts whose rows a shard has not let go of yet."""
    names: frozenset[str] = frozenset()
    for path in shard_paths(folder):
        shard = Shard(path)
        try:
            with shard.snapshot() as moving:
                names |= moving
        finally:
            shard.close()
    return names


def _forget(connection: sqlite3.Connection, last_rowid: int) -> None:
    newest = connection.execute("SELECT max(rowid) FROM answer").fetchone()[0]
    if newest is not None and newest <= last_rowid:
        connection.execute("DELETE FROM answer")  # all of them: SQLite drops the pages without reading them
    else:
        connection.execute("DELETE FROM answer WHERE rowid <= ?", [last_rowid])


def _shrink(connection: sqlite3.Connection) -> None:
    """Give the disk back what the rows took. It can wait while somebody reads."""
    with contextlib.suppress(sqlite3.OperationalError):
        connection.execute("PRAGMA busy_timeout = 0")
        connection.execute("VACUUM")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.execute("PRAGMA busy_timeout = 30000")


def partial_path(folder: Path, name: str) -> Path:
    return parts_folder(folder) / f".{name}.partial"


@contextlib.contextmanager
def _written(partial: Path) -> Iterator[None]:
    """A file being written: gone again if it does not get finished."""
    partial.parent.mkdir(exist_ok=True)
    try:
        with named(partial):
            yield
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def place(partial: Path, name: str) -> None:
    with named(partial):
        partial.rename(partial.with_name(name))
        handle = os.open(partial.parent, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


@contextlib.contextmanager
def only_one(parts: Path) -> Iterator[bool]:
    """Whether this process may merge parts; if another one does, that is enough."""
    if not parts.exists():
        yield False
        return
    with (parts / ".lock").open("w") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True
