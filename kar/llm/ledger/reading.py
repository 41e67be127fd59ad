"""All rows of a ledger, whichever shard or part they lie in, as one reader sees them."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from kar.errors import LedgerError
from kar.llm.ledger.answer import COLUMNS, SCHEMA, Answer, fault, of_table, order
from kar.llm.ledger.merging import ORDER, in_key_order
from kar.llm.ledger.parts import Part
from kar.llm.ledger.places import RESCUE, part_paths, shard_paths
from kar.llm.ledger.shard import Shard

Row = tuple[Answer, bytes]


class Reading:
    """Reads a ledger's folder, without any lock, while others write it. Every method may raise LedgerError.

    What is asked together is answered from one moment: rows that move from a shard to a part are seen in one of them.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._shards: dict[Path, Shard] = {}
        self._parts: dict[Path, Part] = {}
        self._turn = threading.RLock()

    @contextlib.contextmanager
    def moment(self) -> Iterator[tuple[list[Shard], list[Part]]]:
        """The shards and parts as they are now. The shards come first: what left one since is in a part by then."""
        with self._turn, contextlib.ExitStack() as stack:
            shards = [self._shard(path) for path in shard_paths(self.folder)]
            not_yet: frozenset[str] = frozenset().union(*[stack.enter_context(shard.snapshot()) for shard in shards])
            yield [shard for shard in shards if shard.is_begun], self._live(not_yet)

    def held(self, keys: Iterable[str]) -> set[str]:
        """Those keys that have a good answer. Reads no text."""
        wanted = sorted(set(keys))
        found: set[str] = set()
        with self.moment() as (shards, parts):
            for shard in shards:
                found |= shard.held(wanted)
            for part in parts:
                places = part.find([key for key in wanted if key not in found])
                for table in part.read(places, ["key", "status"]):
                    found.update(table["key"].filter(pc.equal(table["status"], "ok")).to_pylist())
        return found.intersection(wanted)

    def endings(self, keys: Iterable[str]) -> dict[str, str]:
        """The finish reason of a good answer to each key that has one. Reads no text."""
        wanted = sorted(set(keys))
        found: dict[str, str] = {}
        with self.moment() as (shards, parts):
            for shard in shards:
                found.update(shard.endings(wanted))
            for part in parts:
                left = [key for key in wanted if key not in found] if found else wanted
                asked = pa.array(left, pa.string())
                for table in part.read(part.find(left), ["key", "status", "finish_reason"]):
                    fits = pc.and_(pc.equal(table["status"], "ok"), pc.is_in(table["key"], value_set=asked))
                    good = table.filter(fits)
                    found.update(zip(good["key"].to_pylist(), good["finish_reason"].to_pylist(), strict=True))
        return found

    def good(self, keys: Iterable[str]) -> dict[str, Answer]:
        """The first good answer to each key that has one."""
        wanted = sorted(set(keys))
        first: dict[str, Row] = {}
        with self.moment() as (shards, parts):
            rows = [shard.good(wanted) for shard in shards] + [_of_part(part, wanted, is_good_only=True) for part in parts]
            for row in (row for source in rows for row in source):
                known = first.get(row[0].key)
                if known is None or order(*row) < order(*known):
                    first[row[0].key] = row
        return {key: _trusted(self.folder, row) for key, row in first.items()}

    def every(self, keys: Iterable[str]) -> dict[str, list[Answer]]:
        """Every row of each key, and every row that asks it again, oldest first; keys without any are left out."""
        wanted = sorted(set(keys))
        found: dict[str, dict[bytes, Answer]] = {key: {} for key in wanted}
        with self.moment() as (shards, parts):
            rows = [shard.every(wanted) for shard in shards] + [_of_part(part, wanted, is_good_only=False) for part in parts]
            for row in (row for source in rows for row in source):
                for key in {row[0].key, row[0].retry_of} & found.keys():
                    found[key][row[1]] = row[0]
        return {
            key: [_trusted(self.folder, (answer, digest)) for digest, answer in sorted(rows.items(), key=lambda r: order(r[1], r[0]))]
            for key, rows in found.items()
            if rows
        }

    def digests(self, keys: Iterable[str]) -> set[bytes]:
        """The digests of every row of the keys."""
        wanted = sorted(set(keys))
        found: set[bytes] = set()
        with self.moment() as (shards, parts):
            for shard in shards:
                found |= shard.digests(wanted)
            for part in parts:
                for table in part.read(part.find(wanted), ["digest"]):  # a stranger's digest among them does no harm
                    found.update(table["digest"].to_pylist())
        return found

    def stream(self, columns: Sequence[str] = tuple(SCHEMA.names)) -> Iterator[pa.Table]:
        """All rows in one order, by key and then oldest first, each once. The columns are widened by those of the order."""
        named = [*dict.fromkeys([*ORDER, *columns])]
        with self.moment() as (shards, parts):
            yield from in_key_order([*(s.stream(named) for s in shards), *(p.stream(named) for p in parts)])

    def count(self) -> int:
        """Rows, failures included."""
        with self.moment() as (shards, parts):
            return sum(shard.count() for shard in shards) + sum(part.rows for part in parts)

    def close(self) -> None:
        for shard in self._shards.values():
            shard.close()
        for part in self._parts.values():
            part.close()
        self._shards, self._parts = {}, {}

    def __enter__(self) -> Reading:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _shard(self, path: Path) -> Shard:
        if path not in self._shards:
            self._shards[path] = Shard(path)
        return self._shards[path]

    def _live(self, not_yet: frozenset[str]) -> list[Part]:
        """The parts that count: neither on their way in nor replaced by a larger one."""
        while True:
            paths = part_paths(self.folder)
            for gone in self._parts.keys() - set(paths):
                self._parts.pop(gone).close()
            try:
                parts = [self._part(path) for path in paths]
            except FileNotFoundError:  # replaced by a larger one since the folder was listed
                continue
            replaced = frozenset[str]().union(*(part.replaces for part in parts))
            return [part for part in parts if part.path.name not in not_yet | replaced]

    def _part(self, path: Path) -> Part:
        if path not in self._parts:
            self._parts[path] = Part(path)
        return self._parts[path]


def _of_part(part: Part, keys: list[str], *, is_good_only: bool) -> Iterator[Row]:
    """The rows of a part that belong to the keys; if failed ones are wanted too, also those that ask a key again."""
    asked = set(keys)
    for table in part.read(part.find(keys), [*COLUMNS, "digest"]):
        rows = of_table(table.filter(pc.equal(table["status"], "ok")) if is_good_only else table)
        yield from (row for row in rows if row[0].key in asked)
    if not is_good_only:
        for table in part.read(part.find_retries(keys), [*COLUMNS, "digest"]):
            yield from of_table(table)


def _trusted(folder: Path, row: Row) -> Answer:
    if why := fault(*row):
        raise LedgerError(f"a row of the ledger {folder} is damaged: {why} (key {row[0].key[:16]})", f"see: kar ledger verify; {RESCUE}")
    return row[0]
