"""A ledger leaves as one file and comes in from any file or folder; nothing is lost, nothing comes in twice."""

from __future__ import annotations

import contextlib
import datetime as dt
import itertools
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

import orjson
import pyarrow as pa

from kar.errors import LedgerError
from kar.llm.ledger.answer import COLUMNS, SCHEMA, TIMES, Answer, fault, of_table, stored
from kar.llm.ledger.ledger import Ledger
from kar.llm.ledger.merging import in_key_order
from kar.llm.ledger.parts import Part, write_rows
from kar.llm.ledger.places import named, part_paths, shard_paths
from kar.llm.ledger.reading import Reading, Row
from kar.llm.ledger.salvage import Salvage
from kar.llm.ledger.shard import Shard

Format = Literal["parquet", "jsonl"]
_BATCH = 1024
_SUFFIXES: dict[str, Format] = {".parquet": "parquet", ".jsonl": "jsonl"}


@dataclass
class Exported:
    """What an export wrote.

    Args:
        rows: written.
        left_out: what could not be read or trusted, and where it lies; empty for a sound ledger.
    """

    rows: int = 0
    left_out: list[str] = field(default_factory=list)


@dataclass
class Merged:
    """What came of rows that were to come in.

    Args:
        read: rows of the source.
        added: new to the ledger.
        known: there already.
        forgotten: of requests that `kar forget` erased: they stay away.
        left_out: rows that fail their own check: not those that were once written, or under a key that is not theirs.
    """

    read: int = 0
    added: int = 0
    known: int = 0
    forgotten: int = 0
    left_out: list[str] = field(default_factory=list)


def export(folder: Path, path: Path, format: Format | None = None) -> Exported:  # noqa: A002  (what it is)
    """Write every row to one file: by key, then oldest first, so the same rows give the same bytes.

    A damaged ledger gives what can still be read of it; rows of its damaged files stand at the end.

    Args:
        format: parquet (lossless, compressed) or jsonl; None takes it from the path's suffix.

    Raises:
        LedgerError: no ledger there, an unknown suffix, no room. Then nothing is written.
    """
    kind = format or _SUFFIXES.get(path.suffix)
    if kind is None:
        raise LedgerError(f"an export to {path} would be of no known format", "name the file .parquet or .jsonl")
    exists(folder)
    exported = Exported()
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with named(path), Salvage(folder, exported.left_out) as sources:
            tables = _trusted(itertools.chain(in_key_order(sources.sound()), sources.damaged()), exported.left_out)
            exported.rows = write_rows(partial, tables) if kind == "parquet" else _write_lines(partial, tables)
            partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return exported


def merge(folder: Path, source: Path, is_forgotten: Callable[[str], bool] = lambda key: False) -> Merged:
    """Take in every row that is not there yet, from an exported file, another ledger's folder, or a shard's SQLite file.

    Rows are told apart by all their fields, so it may be repeated, or broken off and repeated.

    Args:
        is_forgotten: whether a request was erased for good.

    Raises:
        LedgerError: nothing there, nothing that is known, damaged, no room.
        AlreadyRunning: another import into this ledger is going on.
    """
    merged = Merged()
    rows = _rows_of(source)
    with Ledger.open(folder, shard="import") as ledger, Reading(folder) as reading:
        while batch := list(itertools.islice(rows, _BATCH)):
            known = reading.digests(answer.key for answer, _ in batch)
            merged.read += len(batch)
            for answer, digest in batch:
                if why := fault(answer, digest):
                    merged.left_out.append(f"key {answer.key[:16]}: {why}")
                elif is_forgotten(answer.key) or is_forgotten(answer.retry_of):
                    merged.forgotten += 1
                elif digest in known:
                    merged.known += 1
                else:
                    known.add(digest)
                    ledger.put(answer)
                    merged.added += 1
            ledger.flush()
        ledger.compact()
    return merged


def exists(folder: Path) -> None:
    """Raises LedgerError where no answer was ever kept."""
    if not shard_paths(folder) and not part_paths(folder):
        raise LedgerError(f"there is no ledger in {folder}", "the first run that asks a model makes it: kar run all")


def _trusted(tables: Iterable[pa.Table], left_out: list[str]) -> Iterator[pa.Table]:
    """Leave out the rows that fail their check."""
    for table in tables:
        whys = [(answer, fault(answer, digest)) for answer, digest in of_table(table)]
        left_out += [f"key {answer.key[:16]}: {why}" for answer, why in whys if why]
        yield table.filter(pa.array([not why for _, why in whys])) if any(why for _, why in whys) else table


def _write_lines(path: Path, tables: Iterable[pa.Table]) -> int:
    rows = 0
    with path.open("wb") as stream:
        for table in tables:
            for answer, digest in of_table(table):
                values = dict(zip(COLUMNS, stored(answer)[:-1], strict=True))
                stream.write(orjson.dumps({**values, "digest": digest.hex()}, option=orjson.OPT_APPEND_NEWLINE))
            rows += table.num_rows
        stream.flush()
        os.fsync(stream.fileno())
    return rows


def _rows_of(source: Path) -> Iterator[Row]:
    """The rows of whatever `source` is."""
    if source.is_dir():
        exists(source)
        return _of_folder(source)
    if not source.exists():
        raise LedgerError(f"there is no file {source}", "name an exported file, a ledger's folder, or a shard's SQLite file")
    readers = {".parquet": _of_parquet, ".jsonl": _of_lines, ".sqlite": _of_sqlite}
    if source.suffix not in readers:
        raise LedgerError(
            f"{source} is of no known format", "name a .parquet or .jsonl export, a ledger's folder, or a shard's .sqlite file"
        )
    return readers[source.suffix](source)


def _of_folder(source: Path) -> Iterator[Row]:
    with Reading(source) as reading:
        for table in reading.stream():
            yield from of_table(table)


def _of_parquet(source: Path) -> Iterator[Row]:
    with contextlib.closing(Part(source, is_named=False)) as part:
        for table in part.stream(SCHEMA.names):
            yield from of_table(table)


def _of_sqlite(source: Path) -> Iterator[Row]:
    with contextlib.closing(Shard(source)) as shard, shard.snapshot():
        for _, answer, digest in shard.by_rowid():
            yield answer, digest


def _of_lines(source: Path) -> Iterator[Row]:
    """A line without a digest is taken as it is; its key must still be that of its body."""
    with named(source), source.open("rb") as stream:
        for number, line in enumerate(stream, 1):
            try:
                yield _of_line(orjson.loads(line))
            except (TypeError, ValueError, AttributeError) as error:
                raise LedgerError(
                    f"line {number} of {source} is no answer: {error}", "export it again; what came before it was taken in"
                ) from error


def _of_line(values: dict[str, Any]) -> Row:
    digest = values.pop("digest", None)
    values |= {name: dt.datetime.fromisoformat(values[name]) for name in TIMES if name in values}
    answer = Answer(**values)
    for column in fields(Answer):
        wanted = {"int": int, "dt.datetime": dt.datetime}.get(str(column.type), str)
        if not isinstance(getattr(answer, column.name), wanted):
            raise TypeError(f"{column.name} is {getattr(answer, column.name)!r}")
    return answer, bytes.fromhex(digest) if digest is not None else stored(answer)[-1]
