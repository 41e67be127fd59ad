"""Format 1 is read as it is and brought to format 2 by its next writer; nothing else is guessed at."""

from __future__ import annotations

import fcntl
import sqlite3
from pathlib import Path

import pytest

from kar.errors import AlreadyRunning, LedgerError
from kar.llm.ledger import Answer, Ledger, look_up
from tests.llm.ledger.rows import answer, failed, key

# as the first version of kar wrote it
_FORMAT_1 = """
CREATE TABLE answer (
  key TEXT NOT NULL, body TEXT NOT NULL, text TEXT NOT NULL, finish_reason TEXT NOT NULL, prompt_tokens INTEGER NOT NULL,
  cached_tokens INTEGER NOT NULL, completion_tokens INTEGER NOT NULL, reasoning_tokens INTEGER NOT NULL, lost_tokens INTEGER NOT NULL,
  model TEXT NOT NULL, revision TEXT NOT NULL, template_version TEXT NOT NULL, attempts INTEGER NOT NULL, status TEXT NOT NULL,
  detail TEXT NOT NULL, asked_at TEXT NOT NULL, started_at TEXT NOT NULL, ended_at TEXT NOT NULL
);
CREATE INDEX answer_key ON answer (key);
PRAGMA user_version = 1;
"""
_FIELDS_1 = [line.split()[0] for line in _FORMAT_1.split("(\n")[1].split("\n)")[0].replace(",", "\n").splitlines() if line.strip()]
OLD = [
    answer("a", "Zoë “said” 🎬", server_version=""),
    failed("b", server_version=""),
    answer("b", "later", after_s=5, server_version=""),
    answer("c", "", finish_reason="length", server_version=""),
]


def write_format_1(folder: Path, answers: list[Answer]) -> Path:
    """A ledger as the first version of kar left it."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "answers.sqlite"
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.executescript(_FORMAT_1)
    for made in answers:
        values = [getattr(made, name) for name in _FIELDS_1]
        values = [v.isoformat() if hasattr(v, "isoformat") else v for v in values]
        connection.execute(f"INSERT INTO answer VALUES ({', '.join('?' * len(values))})", values)
    connection.commit()
    connection.close()
    return path


def version_of(path: Path) -> int:
    connection = sqlite3.connect(path)
    try:
        return int(connection.execute("PRAGMA user_version").fetchone()[0])
    finally:
        connection.close()


def test_a_file_of_format_1_is_migrated_when_it_is_opened_and_loses_nothing(tmp_path: Path) -> None:
    assert len(_FIELDS_1) == 18
    path = write_format_1(tmp_path, OLD)
    with Ledger.open(tmp_path) as ledger:
        assert ledger.find([key("a"), key("b"), key("c")]) == {key("a"): [OLD[0]], key("b"): [OLD[1], OLD[2]], key("c"): [OLD[3]]}
        ledger.put(answer("d", after_s=2, retry_of=key("c")))
        assert ledger.find([key("c")]) == {key("c"): [OLD[3], answer("d", after_s=2, retry_of=key("c"))]}
    assert version_of(path) == 2
    with Ledger.open(tmp_path) as ledger:
        assert ledger.compact() == 5
        assert ledger.get(key("a")) == OLD[0]


def test_a_file_of_format_1_is_read_as_it_is_while_nobody_may_write_it(tmp_path: Path) -> None:
    path = write_format_1(tmp_path, OLD)
    assert look_up(tmp_path, [key("a"), key("b"), key("x")]) == {key("a"): OLD[0], key("b"): OLD[2]}
    with Ledger.open(tmp_path, shard="other") as ledger:
        assert ledger.held([key("a"), key("b"), key("x")]) == {key("a"), key("b")}
        assert ledger.find([key("b")]) == {key("b"): [OLD[1], OLD[2]]}
        assert ledger.count() == 4
    assert version_of(path) == 1


def test_a_file_that_an_older_kar_is_writing_is_not_migrated_under_it(tmp_path: Path) -> None:
    path = write_format_1(tmp_path, OLD)
    with (tmp_path / ".answers.sqlite.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(AlreadyRunning):
            Ledger.open(tmp_path)
    assert version_of(path) == 1


def test_a_migration_that_fails_half_way_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    path = write_format_1(tmp_path, OLD)
    connection = sqlite3.connect(path)
    connection.execute("UPDATE answer SET asked_at = 'no time at all' WHERE rowid = 4")
    connection.commit()
    connection.close()
    with pytest.raises(LedgerError):
        Ledger.open(tmp_path)
    assert version_of(path) == 1
    connection = sqlite3.connect(path)
    assert [row[1] for row in connection.execute("PRAGMA table_info(answer)")] == _FIELDS_1
    connection.close()


@pytest.mark.parametrize("version", [3, 7])
def test_a_file_of_another_format_is_refused_by_name(tmp_path: Path, version: int) -> None:
    connection = sqlite3.connect(tmp_path / "answers.sqlite")
    connection.execute(f"PRAGMA user_version = {version}")
    connection.close()
    with pytest.raises(LedgerError, match=f"format {version}"):
        Ledger.open(tmp_path)
    with pytest.raises(LedgerError, match=f"format {version}"):
        look_up(tmp_path, [key("a")])
