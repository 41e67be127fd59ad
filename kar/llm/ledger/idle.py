"""What is done to a whole ledger while nobody writes: every shard is held, and compacted as a night does with its own."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from kar.llm.ledger.ledger import Ledger
from kar.llm.ledger.places import part_paths, shard_paths


@dataclass(frozen=True)
class Compacted:
    """What `compact_all` did.

    Args:
        rows: moved from shards into parts.
        shards: looked at.
        parts_before, parts: files of parts, before and after.
    """

    rows: int
    shards: int
    parts_before: int
    parts: int


@contextlib.contextmanager
def held_shards(folder: Path) -> Iterator[list[Ledger]]:
    """Every shard of a ledger, locked. Raises AlreadyRunning while another process writes one of them, LedgerError if one is damaged."""
    names = [path.name.removeprefix("answers.").removesuffix("sqlite").rstrip(".") or "main" for path in shard_paths(folder)]
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(Ledger.open(folder, shard=name)) for name in names]


def compact_all(folder: Path) -> Compacted:
    """Move the rows of every shard into parts, and let small parts grow together. Killed between any two steps it loses nothing.

    Args:
        folder: the ledger's; one that is not there is an empty ledger.

    Raises:
        AlreadyRunning: another process writes one of its shards; nothing was moved.
        LedgerError: no room, or something is damaged; every row stays readable.
    """
    before = len(part_paths(folder))
    with held_shards(folder) as shards:
        rows = sum(shard.compact() for shard in shards)
        return Compacted(rows, len(shards), before, len(part_paths(folder)))
