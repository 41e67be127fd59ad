"""The open ledger: one shard to write, every shard and part to read."""

from __future__ import annotations

import contextlib
import fcntl
import sqlite3
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Self

import orjson

from kar.errors import AlreadyRunning, LedgerError
from kar.llm.key import request_key
from kar.llm.ledger.answer import Answer, order, stored, without_surrogates
from kar.llm.ledger.compact import compact, finish, scrub
from kar.llm.ledger.places import MOUNTS, named, refuse_network, shard_path
from kar.llm.ledger.reading import Reading
from kar.llm.ledger.shard import opened
from kar.llm.ledger.writer import Writer

COMMIT_WINDOW_S = 0.1
_MOST_BESIDE = 64


class Ledger:
    """The ledger of one scenario, open for writing one of its shards. Use as a context manager.

    Reads see every shard and every part, and what was put here and waits for its commit.

    Raises (any method):
        LedgerError: a file is damaged, the disk is full, or nothing can be written.
    """

    def __init__(self, folder: Path, path: Path, lock: IO[str], connection: sqlite3.Connection, window_s: float) -> None:
        self.path = path
        self._folder, self._lock, self._connection = folder, lock, connection
        self._reading = Reading(folder)
        self._writer = Writer(path, connection, window_s)

    @classmethod
    def open(cls, folder: Path, *, shard: str = "main", window_s: float = COMMIT_WINDOW_S, mounts: Path = MOUNTS) -> Ledger:
        """Open or make the ledger in `folder`.

        Args:
            shard: which SQLite file to write; several processes write several shards at the same time.
            window_s: seconds between commits; what a crash may cost beside the requests in flight.
            mounts: the table of mounted file systems.

        Raises:
            LedgerError: a network file system, a damaged file, a file of another format, no space.
            AlreadyRunning: another process has this shard open.
        """
        path = shard_path(folder, shard)
        with named(folder):
            folder.mkdir(parents=True, exist_ok=True)
            refuse_network(folder, mounts)
            lock = (folder / f".{path.name}.lock").open("w")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            connection = opened(path)
            finish(folder, path, connection)
            return cls(folder, path, lock, connection, window_s)
        except BlockingIOError as error:
            lock.close()
            raise AlreadyRunning(f"another process writes the ledger {path}", "wait for it, or stop it") from error
        except BaseException:
            lock.close()
            raise

    @classmethod
    def open_beside(cls, folder: Path) -> Ledger:
        """Open the first shard `ask-N` that nobody writes: for processes that ask at the same time. Their files are used again.

        Raises:
            LedgerError: as `open`.
            AlreadyRunning: so many write at once that something else must be wrong.
        """
        for number in range(_MOST_BESIDE - 1):
            with contextlib.suppress(AlreadyRunning):
                return cls.open(folder, shard=f"ask-{number}")
        return cls.open(folder, shard=f"ask-{_MOST_BESIDE - 1}")

    def put(self, answer: Answer) -> None:
        """Add an answer. Returns at once; it is on disk after the commit window, or after `flush`.

        Raises:
            LedgerError: its key is not that of its body and revision; or nothing can be written any more.
        """
        if request_key(answer.body.encode(), answer.revision) != answer.key:
            raise LedgerError(
                f"an answer was to be kept under the key {answer.key[:16]}, which is not that of its body and revision",
                "report this as a fault of kar",
            )
        try:
            row = stored(answer)
        except orjson.JSONEncodeError:
            answer = without_surrogates(answer)
            row = stored(answer)
        self._writer.put(answer, row)

    def flush(self) -> None:
        """Wait until all that was put is committed."""
        self._writer.flush()

    def held(self, keys: Iterable[str]) -> set[str]:
        """Those keys that have a good answer. Reads no text: 100,000 keys against a million rows take about a second."""
        wanted = set(keys)
        waiting = {key for key in wanted if self._writer.waiting(key) is not None}
        return waiting | self._reading.held(wanted - waiting)

    def endings(self, keys: Iterable[str]) -> dict[str, str]:
        """The finish reason of a good answer to each key that has one: what `held` says, and which of them were cut."""
        wanted = set(keys)
        waiting = {key: answer.finish_reason for key in wanted if (answer := self._writer.waiting(key)) is not None}
        return self._reading.endings(wanted - waiting.keys()) | waiting

    def get(self, key: str) -> Answer | None:
        """The good answer to a request, or None. What failed is not an answer: it may be asked again."""
        return self.get_many([key]).get(key)

    def get_many(self, keys: Iterable[str]) -> dict[str, Answer]:
        """The first good answer to each key that has one."""
        wanted = set(keys)
        # what waits is looked at first: a row that is committed between the two looks is then seen twice, never missed
        waiting = {key: answer for key in wanted if (answer := self._writer.waiting(key)) is not None}
        found = self._reading.good(wanted)
        for key, answer in waiting.items():
            found[key] = min(answer, found.get(key, answer), key=lambda a: order(a, stored(a)[-1]))
        return found

    def find(self, keys: Iterable[str]) -> dict[str, list[Answer]]:
        """Every row of each key, failed ones too, and every row whose `retry_of` is the key; oldest first.

        Commits what is waiting before it looks. Keys without any row are left out.
        """
        self.flush()
        return self._reading.every(keys)

    def count(self) -> int:
        """Rows on disk, failures included."""
        self.flush()
        return self._reading.count()

    def compact(self) -> int:
        """Move this shard's rows into a Parquet part; for the end of a run. Nothing may be put meanwhile.

        Returns:
            the number of rows moved.
        """
        self.flush()
        return compact(self._folder, self.path, self._connection)

    def scrub(self) -> None:
        """Leave no byte of a row that left this shard: free pages and the write-ahead log are written anew.

        Raises:
            LedgerError: somebody reads it at this moment.
        """
        self.flush()
        scrub(self.path, self._connection)

    def close(self) -> None:
        """Commit what is waiting and let go of the file."""
        if self._lock.closed:
            return
        try:
            self._reading.close()
            self._writer.close()
        finally:
            self._lock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def look_up(folder: Path, keys: Iterable[str]) -> dict[str, Answer]:
    """The first good answer to some requests, without a lock: for a person who looks while a run goes on.

    Raises:
        LedgerError: a file is damaged.
    """
    with Reading(folder) as reading:
        return reading.good(keys)
