"""What can still be read of a damaged ledger: sound files as a whole, damaged ones row by row."""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from kar.errors import LedgerError
from kar.llm.ledger.answer import SCHEMA, STORED, fault, of_stored, table_of
from kar.llm.ledger.parts import Part
from kar.llm.ledger.places import part_paths, shard_paths
from kar.llm.ledger.shard import STREAM_ROWS, Shard, connected

_LARGEST_HOLE_ROWS = 20_000  # behind so many that cannot be read, no more are looked for


class Salvage:
    """Opens what is sound and takes rows out of what is not. Use as a context manager.

    Args:
        folder: of the ledger.
        left_out: gets a sentence for each file that is damaged.
    """

    def __init__(self, folder: Path, left_out: list[str]) -> None:
        self._folder, self._left_out = folder, left_out
        self._stack = contextlib.ExitStack()
        self._shards: list[Shard] = []
        self._parts: list[Part] = []
        self._broken: list[Path] = []

    def sound(self) -> list[Iterator[pa.Table]]:
        """Every row of the sound files, by key within each."""
        names = list(SCHEMA.names)
        return [*(s.stream(names) for s in self._shards), *(p.stream(names) for p in self._parts)]

    def damaged(self) -> Iterator[pa.Table]:
        """Those rows of the damaged files that can be read, in no order."""
        for path in self._broken:
            rows = 0
            for table in _of_shard(path) if path.suffix == ".sqlite" else _of_part(path):
                rows += table.num_rows
                yield table
            self._left_out.append(f"{path.name} is damaged: {rows:,} rows of it could be read")

    def __enter__(self) -> Salvage:
        """Check every file. A part that does not count yet, or no more, holds rows that others hold too: they come once."""
        for path in shard_paths(self._folder):
            try:
                shard = self._stack.enter_context(contextlib.closing(Shard(path)))
                is_sound = not shard.fault()
                if is_sound:
                    self._stack.enter_context(shard.snapshot())
                    self._shards.append(shard)
            except LedgerError:
                is_sound = False
            if not is_sound:
                self._broken.append(path)
        for path in part_paths(self._folder):
            try:
                part = self._stack.enter_context(contextlib.closing(Part(path)))
                if is_sound := not part.fault():
                    self._parts.append(part)
            except LedgerError:
                is_sound = False
            except FileNotFoundError:  # grown together with others meanwhile
                continue
            if not is_sound:
                self._broken.append(path)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()


def _of_part(path: Path) -> Iterator[pa.Table]:
    """The row groups that can be read; each row's digest tells whether it is what was written."""
    try:
        part = Part(path, is_named=False)
    except LedgerError:
        return
    with contextlib.closing(part):
        yield from part.readable(SCHEMA.names)


def _of_shard(path: Path) -> Iterator[pa.Table]:
    """The rows of a copy, made as long as its header says: SQLite refuses to read anything of a file that was cut."""
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".salvage-") as scratch:
        copy = Path(scratch) / path.name
        for suffix in ("", "-wal"):
            if (found := path.with_name(path.name + suffix)).exists():
                shutil.copyfile(found, copy.with_name(copy.name + suffix))
        with copy.open("rb") as stream:
            header = stream.read(512)
        if len(header) < 512:
            return
        size = int.from_bytes(header[16:18]) * int.from_bytes(header[28:32])
        if copy.stat().st_size < size < 2**44:
            os.truncate(copy, size)
        with contextlib.closing(connected(copy)) as connection:
            yield from _in_tables(_rows(connection))


def _rows(connection: sqlite3.Connection) -> Iterator[list[Any]]:
    """Rows by number; behind each one that cannot be read, the next is tried."""
    at = hole = 0
    try:
        columns = {row[1] for row in connection.execute("PRAGMA table_info(answer)")}
    except sqlite3.DatabaseError:
        return
    wanted = ", ".join(name if name in columns else "NULL" if name == "digest" else "''" for name in STORED)
    while hole < _LARGEST_HOLE_ROWS:
        try:
            for rowid, *row in connection.execute(f"SELECT rowid, {wanted} FROM answer WHERE rowid > ? ORDER BY rowid", [at]):
                if rowid <= at:  # damaged pages may lead in a circle
                    break
                at, hole = rowid, 0
                yield row
            else:
                return
        except sqlite3.DatabaseError:
            pass
        at, hole = at + 1, hole + 1


def _in_tables(rows: Iterator[list[Any]]) -> Iterator[pa.Table]:
    batch: list[list[Any]] = []
    for row in rows:
        try:
            is_sound = not fault(*of_stored(row))
        except (AttributeError, TypeError, ValueError):  # a value of another type: not what was written
            is_sound = False
        if not is_sound:
            continue
        batch.append(row)
        if len(batch) == STREAM_ROWS:
            yield table_of(batch)
            batch = []
    if batch:
        yield table_of(batch)
