"""Take rows out of a ledger for good, out of shards, parts, free pages and logs. For `kar forget`; nothing else deletes answers.

Shards first become parts, then the parts that hold such a row are written anew without it. A part that was rewritten names
the one it replaces, as when parts grow together: a kill between any two steps loses and doubles nothing, and the same call goes on.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Set
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from kar.errors import AlreadyRunning
from kar.llm.ledger.answer import SCHEMA
from kar.llm.ledger.compact import only_one, partial_path, place
from kar.llm.ledger.ledger import Ledger
from kar.llm.ledger.parts import Part, name_of, write_rows
from kar.llm.ledger.places import part_paths, parts_folder, shard_paths
from kar.llm.ledger.reading import Reading

Quotes = Callable[[pa.ChunkedArray], pa.ChunkedArray]
"""Texts as they stand inside JSON or plain → which of them quote a forgotten subject."""


@dataclass
class Doomed:
    """Rows that must go.

    Args:
        digests: of the rows.
        keys: of their requests.
        quoting: how many of them belong to other subjects, and go because they quote the forgotten one.
    """

    digests: set[bytes] = field(default_factory=set)
    keys: set[str] = field(default_factory=set)
    quoting: int = 0


def doomed_rows(folder: Path, keys: Set[str], kept: Set[str], quotes: Quotes | None) -> Doomed:
    """The rows of some requests, of whatever asked them again, and all that quote the subject.

    Args:
        keys: of the subject's requests.
        kept: keys that others asked in the same words: their rows stay.
        quotes: None: nothing is looked for.
    """
    found = Doomed(keys=set(keys))
    if not shard_paths(folder) and not part_paths(folder):
        return found
    with Reading(folder) as reading:
        again = pa.concat_tables(
            [t.select(["key", "retry_of"]).filter(pc.not_equal(t["retry_of"], "")) for t in reading.stream(["key", "retry_of"])]
            or [SCHEMA.empty_table().select(["key", "retry_of"])]
        )
        of = dict(zip(again["key"].to_pylist(), again["retry_of"].to_pylist(), strict=True))
        while more := {key for key, first in of.items() if first in found.keys} - found.keys - kept:
            found.keys |= more
        wanted, stays = pa.array(sorted(found.keys), pa.string()), pa.array(sorted(kept), pa.string())
        for table in reading.stream(["key", "body", "text", "detail"]):
            is_own = pc.is_in(table["key"], value_set=wanted)
            if quotes is not None:
                is_quoting = pc.or_(pc.or_(quotes(table["body"]), quotes(table["text"])), quotes(table["detail"]))
                is_quoting = pc.and_(pc.and_(is_quoting, pc.invert(is_own)), pc.invert(pc.is_in(table["key"], value_set=stays)))
                found.quoting += pc.sum(is_quoting).as_py() or 0
                found.keys.update(table["key"].filter(is_quoting).to_pylist())
                is_own = pc.or_(is_own, is_quoting)
            found.digests.update(table["digest"].filter(is_own).to_pylist())
    return found


def erase(folder: Path, shards: list[Ledger], doomed: Doomed) -> None:
    """Take the rows out.

    Raises:
        LedgerError: no room, a damaged file, somebody reads a shard.
        AlreadyRunning: another process merges parts.
    """
    gone = pa.array(sorted(doomed.digests), pa.binary(32))
    if len(gone):
        for shard in shards:
            shard.compact()
    for shard in shards:
        shard.scrub()
    if not part_paths(folder):
        return
    with only_one(parts_folder(folder)) as is_mine:
        if not is_mine:
            raise AlreadyRunning(f"another process merges the parts of the ledger {folder}", "wait for it, then run again")
        for left in parts_folder(folder).glob(".*.partial"):  # all shards are held, so nobody writes it
            left.unlink()
        _drop_replaced(folder)
        for path in part_paths(folder):
            _rewrite(folder, path, gone)


def _drop_replaced(folder: Path) -> None:
    """Take away the parts that others replaced; they may hold what those no longer do."""
    replaced: set[str] = set()
    for path in part_paths(folder):
        with contextlib.closing(Part(path)) as part:
            replaced |= part.replaces
    for path in part_paths(folder):
        if path.name in replaced:
            path.unlink()


def _rewrite(folder: Path, path: Path, gone: pa.Array) -> None:
    with contextlib.closing(Part(path)) as part:
        held = sum(pc.sum(pc.is_in(table["digest"], value_set=gone)).as_py() or 0 for table in part.stream(["digest"]))
        if not held:
            return
        if held < part.rows:
            partial = partial_path(folder, "forgetting")
            rest = (table.filter(pc.invert(pc.is_in(table["digest"], value_set=gone))) for table in part.stream(SCHEMA.names))
            write_rows(partial, (table for table in rest if table.num_rows), replaces=[path.name])
            place(partial, name_of(partial))
    path.unlink()
