"""The thread that writes one shard: rows gather for one window or 512 rows, then are committed together."""

from __future__ import annotations

import contextlib
import queue
import sqlite3
import threading
from pathlib import Path
from typing import Any

from kar.llm.ledger.answer import Answer
from kar.llm.ledger.places import named
from kar.llm.ledger.shard import INSERT

COMMIT_ROWS = 512


class Writer:
    """Owns the connection that writes. After a failure nothing more is written and every call raises it.

    Args:
        path: for messages.
        connection: to a checked shard; closed by `close`.
        window_s: seconds between commits.
    """

    def __init__(self, path: Path, connection: sqlite3.Connection, window_s: float) -> None:
        self._path, self._connection, self._window_s = path, connection, window_s
        self._queue: queue.SimpleQueue[tuple[Answer, tuple[Any, ...]] | threading.Event | None] = queue.SimpleQueue()
        self._pending: dict[str, Answer] = {}
        self._due = threading.Event()  # ends a window early: 512 rows, or somebody waits
        self._failure: sqlite3.Error | None = None
        self._thread = threading.Thread(target=self._write, name="ledger", daemon=True)
        self._thread.start()

    def put(self, answer: Answer, row: tuple[Any, ...]) -> None:
        """Take a row and return at once.

        Raises:
            LedgerError: an earlier row could not be written.
        """
        self._raise_failure()
        if answer.status == "ok":
            self._pending.setdefault(answer.key, answer)
        self._queue.put((answer, row))
        if self._queue.qsize() >= COMMIT_ROWS:
            self._due.set()

    def waiting(self, key: str) -> Answer | None:
        """The good answer that was put and is not committed yet."""
        return self._pending.get(key)

    def flush(self) -> None:
        """Wait until all that was put is committed.

        Raises:
            LedgerError: something of it could not be written.
        """
        done = threading.Event()
        self._queue.put(done)
        self._due.set()
        done.wait()
        self._raise_failure()

    def close(self) -> None:
        """Commit what is waiting and let go of the file.

        Raises:
            LedgerError: something of it could not be written.
        """
        self._queue.put(None)
        self._due.set()
        self._thread.join()
        self._connection.close()
        self._raise_failure()

    def _raise_failure(self) -> None:
        if self._failure is not None:
            with named(self._path):
                raise self._failure

    def _write(self) -> None:
        """After a failure it only lets waiters go."""
        is_open = True
        while is_open:
            batch, events, is_open = self._gather()
            if batch and self._failure is None:
                try:
                    self._commit(batch)
                except sqlite3.Error as error:
                    self._failure = error
            for event in events:
                event.set()

    def _commit(self, batch: list[tuple[Answer, tuple[Any, ...]]]) -> None:
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            self._connection.executemany(INSERT, [row for _, row in batch])
            self._connection.execute("COMMIT")
        except sqlite3.Error:
            if self._connection.in_transaction:
                with contextlib.suppress(sqlite3.Error):
                    self._connection.execute("ROLLBACK")
            raise
        for answer, _ in batch:
            self._pending.pop(answer.key, None)

    def _gather(self) -> tuple[list[tuple[Answer, tuple[Any, ...]]], list[threading.Event], bool]:
        """What to commit next, who waits for it, and whether more may come."""
        batch: list[tuple[Answer, tuple[Any, ...]]] = []
        item = self._queue.get()
        if not isinstance(item, tuple):
            return batch, [] if item is None else [item], item is not None
        # asleep until the window ends: woken for every row, this thread would take turns with the event loop all the time
        self._due.wait(self._window_s)
        self._due.clear()
        while isinstance(item, tuple):
            batch.append(item)
            if len(batch) == COMMIT_ROWS:
                self._due.set()  # the rest has waited long enough
                return batch, [], True
            try:
                item = self._queue.get_nowait()
            except queue.Empty:
                return batch, [], True
        return batch, [] if item is None else [item], item is not None
