"""Every paid answer, kept: an append-only SQLite file in the scenario's `ledger/` folder.

An answer lies under its request key (`kar.llm.key`). Rows are only ever added; of several answers to one key the
first good one counts, so a later failure never hides what was paid for. Writes are grouped by a thread of their own:
a process killed with SIGKILL loses the requests in flight plus at most one commit window.

WAL with synchronous=NORMAL: a commit survives the death of the process; after a power cut the last ones may be gone.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import fcntl
import queue
import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import IO, Literal, Self

from kar.errors import AlreadyRunning, LedgerError

COMMIT_WINDOW_S = 0.1
COMMIT_ROWS = 512
Status = Literal["ok", "bad_request", "exhausted"]

_FILE = "answers.sqlite"
_FORMAT = 1
_CHECK_WHOLE_BELOW_BYTES = 256 * 2**20
# SQLite's locks cannot be trusted on these: two writers would not see each other.
_NETWORK = frozenset(
    [
        *("nfs", "nfs4", "cifs", "smb2", "smb3", "smbfs", "9p", "afs", "ceph", "lustre", "gpfs", "beegfs", "glusterfs", "orangefs"),
        *("fuse.sshfs", "fuse.glusterfs", "fuse.ceph", "fuse.s3fs", "fuse.gcsfuse", "fuse.rclone", "fuse.davfs", "fuse.juicefs"),
        *("pvfs2", "ocfs2", "gfs2", "ncpfs", "davfs", "fuse.mount-s3"),
    ]
)


@dataclass(frozen=True, slots=True)
class Answer:
    """One request's outcome, as the server gave it.

    Args:
        key: `kar.llm.key.request_key` of body and revision.
        body: the exact JSON text that was sent.
        text: the answer; empty unless status is ok.
        finish_reason: as the server names it (stop, length, content_filter …).
        prompt_tokens, cached_tokens, completion_tokens, reasoning_tokens: as the server counted.
        lost_tokens: of attempts that failed: as reported, else estimated.
        model: as the server names it in the answer.
        revision: the one in the key.
        template_version: id@version:digest.
        attempts: attempts made, this one included; back-pressure is not an attempt.
        status: ok · bad_request (refused for good) · exhausted (no answer after the last attempt).
        detail: of a failure: status code or exception type, and the server's first words.
        asked_at: the clock of the run that asked, UTC.
        started_at, ended_at: of the request, UTC.
    """

    key: str
    body: str
    text: str
    finish_reason: str
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    reasoning_tokens: int
    lost_tokens: int
    model: str
    revision: str
    template_version: str
    attempts: int
    status: Status
    detail: str
    asked_at: dt.datetime
    started_at: dt.datetime
    ended_at: dt.datetime


_COLUMNS = tuple(f.name for f in fields(Answer))
_INTEGERS = {n for n in _COLUMNS if n.endswith("_tokens") or n == "attempts"}
_TIMES = tuple(n for n in _COLUMNS if n.endswith("_at"))
_SCHEMA = f"""
CREATE TABLE IF NOT EXISTS answer (
  {", ".join(f"{n} {'INTEGER' if n in _INTEGERS else 'TEXT'} NOT NULL" for n in _COLUMNS)}
);
CREATE INDEX IF NOT EXISTS answer_key ON answer (key);
"""
_INSERT = f"INSERT INTO answer VALUES ({', '.join('?' * len(_COLUMNS))})"


class Ledger:
    """The open ledger of one scenario. One process writes; use as a context manager.

    Raises (any method):
        LedgerError: the file is damaged, the disk is full, or nothing can be written.
    """

    def __init__(self, path: Path, lock: IO[str], reader: sqlite3.Connection, window_s: float) -> None:
        self.path = path
        self._lock, self._reader, self._window_s = lock, reader, window_s
        self._pending: dict[str, Answer] = {}
        self._queue: queue.SimpleQueue[Answer | threading.Event | None] = queue.SimpleQueue()
        self._failure: sqlite3.Error | None = None
        self._writer = threading.Thread(target=self._write, name="ledger", daemon=True)
        self._writer.start()

    @classmethod
    def open(cls, folder: Path, *, window_s: float = COMMIT_WINDOW_S, mounts: Path = Path("/proc/mounts")) -> Ledger:
        """Open or make the ledger in `folder`.

        Args:
            window_s: seconds between commits; what a crash may cost beside the requests in flight.
            mounts: the table of mounted file systems.

        Raises:
            LedgerError: a network file system, a damaged file, a file of another format, no space.
            AlreadyRunning: another process has it open.
        """
        folder.mkdir(parents=True, exist_ok=True)
        if (kind := file_system_of(folder, mounts)) in _NETWORK:
            raise LedgerError(
                f"the ledger folder {folder} lies on a network file system ({kind}), where SQLite's locks do not hold",
                "set KAR_HOME to a local disk",
            )
        path = folder / _FILE
        lock = (folder / f".{_FILE}.lock").open("w")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return cls(path, lock, _opened(path), window_s)
        except BlockingIOError as error:
            lock.close()
            raise AlreadyRunning(f"another process writes the ledger {path}", "wait for it, or stop it") from error
        except BaseException:
            lock.close()
            raise

    def put(self, answer: Answer) -> None:
        """Add an answer. Returns at once; it is on disk after the commit window, or after `flush`."""
        self._raise_failure()
        if answer.status == "ok":
            self._pending.setdefault(answer.key, answer)
        self._queue.put(answer)

    def get(self, key: str) -> Answer | None:
        """The good answer to a request, or None. What failed is not an answer: it may be asked again."""
        return self.get_many([key]).get(key)

    def get_many(self, keys: Iterable[str]) -> dict[str, Answer]:
        """The good answers among many keys."""
        wanted = list(dict.fromkeys(keys))
        # what waits is looked at first: a row that is committed between the two looks is then seen twice, never missed
        waiting = {key: answer for key in wanted if (answer := self._pending.get(key)) is not None}
        with _named(self.path):
            return waiting | _good(self._reader, wanted)

    def rows(self, key: str) -> list[Answer]:
        """Every row of a key, oldest first: failures too. Commits what is waiting before it looks."""
        self.flush()
        with _named(self.path):
            return [_answer(row) for row in self._reader.execute("SELECT * FROM answer WHERE key = ? ORDER BY rowid", [key])]

    def count(self) -> int:
        """Rows on disk, failures included."""
        self.flush()
        with _named(self.path):
            return int(self._reader.execute("SELECT count(*) FROM answer").fetchone()[0])

    def flush(self) -> None:
        """Wait until all that was put is committed."""
        done = threading.Event()
        self._queue.put(done)
        done.wait()
        self._raise_failure()

    def close(self) -> None:
        """Commit what is waiting and let go of the file."""
        if self._lock.closed:
            return
        self._queue.put(None)
        self._writer.join()
        self._reader.close()
        self._lock.close()
        self._raise_failure()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _raise_failure(self) -> None:
        if self._failure is not None:
            with _named(self.path):
                raise self._failure

    def _write(self) -> None:
        """The writer thread: gather for one window or 512 rows, commit, again. After a failure it only lets waiters go."""
        connection = sqlite3.connect(self.path, isolation_level=None, timeout=30)
        is_open = True
        while is_open:
            rows, events, is_open = self._gather()
            if rows and self._failure is None:
                try:
                    connection.execute("BEGIN IMMEDIATE")
                    connection.executemany(_INSERT, [_row(a) for a in rows])
                    connection.execute("COMMIT")
                    for answer in rows:
                        self._pending.pop(answer.key, None)
                except sqlite3.Error as error:
                    self._failure = error
                    if connection.in_transaction:
                        with contextlib.suppress(sqlite3.Error):
                            connection.execute("ROLLBACK")
            for event in events:
                event.set()
        connection.close()

    def _gather(self) -> tuple[list[Answer], list[threading.Event], bool]:
        """What to commit next, who waits for it, and whether more may come."""
        rows: list[Answer] = []
        until: float | None = None
        while len(rows) < COMMIT_ROWS:
            try:
                item = self._queue.get(timeout=None if until is None else max(0.0, until - time.monotonic()))
            except queue.Empty:
                break
            if item is None:
                return rows, [], False
            if isinstance(item, threading.Event):
                return rows, [item], True
            rows.append(item)
            until = until or time.monotonic() + self._window_s
        return rows, [], True


def look_up(folder: Path, keys: Iterable[str]) -> dict[str, Answer]:
    """The good answers to some requests, read without the writer's lock: for a person who looks while a run goes on.

    Raises:
        LedgerError: the file is damaged.
    """
    path = folder / _FILE
    if not path.exists():
        return {}
    with _named(path), contextlib.closing(sqlite3.connect(path, isolation_level=None, timeout=30)) as connection:
        return _good(connection, list(dict.fromkeys(keys)))


def file_system_of(path: Path, mounts: Path = Path("/proc/mounts")) -> str:
    """The type of the file system that holds `path`, as the mount table names it; empty where there is no such table."""
    try:
        lines = mounts.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    place, best, kind = path.resolve(), -1, ""
    for line in lines:
        words = line.split(" ")
        # the table writes blanks in a path as \040
        point = Path(words[1].encode().decode("unicode_escape")) if len(words) > 2 else None
        if point is not None and place.is_relative_to(point) and len(point.parts) >= best:
            best, kind = len(point.parts), words[2]
    return kind


def _opened(path: Path) -> sqlite3.Connection:
    """A connection to a ledger that was checked: format, and every page if it is small or was not closed in order."""
    was_torn = path.with_name(path.name + "-wal").exists()
    with _named(path):
        connection = sqlite3.connect(path, isolation_level=None, timeout=30, check_same_thread=False)
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = NORMAL")
            version = connection.execute("PRAGMA user_version").fetchone()[0]
            if version not in (0, _FORMAT):
                raise LedgerError(f"the ledger {path} has format {version}, this kar reads {_FORMAT}", "use the kar that wrote it")
            if was_torn or path.stat().st_size < _CHECK_WHOLE_BELOW_BYTES:
                verdict = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
                if verdict != "ok":
                    raise sqlite3.DatabaseError(verdict)
            connection.executescript(_SCHEMA)
            connection.execute(f"PRAGMA user_version = {_FORMAT}")
        except BaseException:
            connection.close()
            raise
        return connection


def _good(connection: sqlite3.Connection, keys: list[str]) -> dict[str, Answer]:
    """The first good answer to each key."""
    found: dict[str, Answer] = {}
    for start in range(0, len(keys), 500):
        part = keys[start : start + 500]
        sql = f"SELECT * FROM answer WHERE status = 'ok' AND key IN ({', '.join('?' * len(part))}) ORDER BY rowid"
        for row in connection.execute(sql, part):
            answer = _answer(row)
            found.setdefault(answer.key, answer)
    return found


@contextlib.contextmanager
def _named(path: Path) -> Iterator[None]:
    """Turn SQLite's errors into ours."""
    try:
        yield
    except sqlite3.OperationalError as error:
        raise LedgerError(f"the ledger {path} cannot be written or read: {error}", "look at the disk's space and permissions") from error
    except sqlite3.DatabaseError as error:
        raise LedgerError(
            f"the ledger {path} is damaged: {error}",
            "put a copy of it in its place, or save what can be read with: sqlite3 answers.sqlite .recover; "
            "if you move it away, its answers are paid for again",
        ) from error


def _row(answer: Answer) -> tuple[object, ...]:
    return tuple(v.isoformat() if isinstance(v, dt.datetime) else v for v in astuple(answer))


def _answer(row: tuple[object, ...]) -> Answer:
    values = dict(zip(_COLUMNS, row, strict=True))
    for name in _TIMES:
        values[name] = dt.datetime.fromisoformat(str(values[name]))
    return Answer(**values)  # type: ignore[arg-type]  # the table was declared from the same fields
