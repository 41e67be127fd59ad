"""A torn last write and a full disk: what was committed stays, what is wrong is said, and the run goes on afterwards."""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kar.errors import LedgerError
from kar.llm.ledger import Ledger
from kar.llm.ledger.answer import stored
from kar.llm.ledger.places import part_paths
from kar.llm.ledger.shard import opened
from kar.llm.ledger.writer import Writer
from tests.llm.ledger.rows import ROOT, answer, key
from tests.llm.ledger.test_compact import rows_of

COUNT = 60


@pytest.fixture(scope="module")
def crashed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[int]]:
    """A ledger as a killed process leaves it, and the length of the WAL after each commit of one row."""
    folder, copy = tmp_path_factory.mktemp("open"), tmp_path_factory.mktemp("crashed")
    wal = folder / "answers.sqlite-wal"
    lengths = []
    with Ledger.open(folder) as ledger:
        for n in range(COUNT):
            ledger.put(answer(f"k{n}", f"{n} " * 300))
            ledger.flush()
            lengths.append(wal.stat().st_size)
            if n == 19:  # a third of the rows is in the main file already
                with contextlib.closing(sqlite3.connect(ledger.path)) as connection:
                    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
                lengths = [0] * 20
        for path in folder.glob("answers.sqlite*"):
            shutil.copyfile(path, copy / path.name)
    return copy, lengths


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_whatever_the_wal_is_cut_to_every_row_committed_before_the_tear_is_read(
    crashed: tuple[Path, list[int]], data: st.DataObject
) -> None:
    source, lengths = crashed
    at = data.draw(st.integers(0, lengths[-1]))
    with _copy(source) as folder:
        os.truncate(folder / "answers.sqlite-wal", at)
        with Ledger.open(folder) as ledger:
            held = ledger.held(key(f"k{n}") for n in range(COUNT))
            ledger.put(answer("new"))
            assert ledger.count() == len(held) + 1
        committed = sum(length <= at for length in lengths)
        assert held == {key(f"k{n}") for n in range(committed)}


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_whatever_the_file_is_cut_to_it_is_named_or_whole(crashed: tuple[Path, list[int]], data: st.DataObject) -> None:
    source, lengths = crashed
    with _copy(source) as folder:
        path, wal = folder / "answers.sqlite", folder / "answers.sqlite-wal"
        os.truncate(path, data.draw(st.integers(1, path.stat().st_size)))
        os.truncate(wal, data.draw(st.sampled_from([0, lengths[-1] // 2, lengths[-1]])))
        committed = sum(length <= wal.stat().st_size for length in lengths)
        held, do = _held_or_what_to_do(folder)
        assert do or held == {key(f"k{n}") for n in range(committed)}
        assert not do or "kar ledger export" in do or "disk" in do


def _held_or_what_to_do(folder: Path) -> tuple[set[str], str]:
    try:
        with Ledger.open(folder) as ledger:
            return ledger.held(key(f"k{n}") for n in range(COUNT)), ""
    except LedgerError as error:
        return set(), error.do


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_changed_byte_anywhere_in_the_files_never_ends_in_a_wrong_answer_or_a_traceback(
    crashed: tuple[Path, list[int]], data: st.DataObject
) -> None:
    source, _ = crashed
    put = {key(f"k{n}"): answer(f"k{n}", f"{n} " * 300) for n in range(COUNT)}
    with _copy(source) as folder:
        path = folder / data.draw(st.sampled_from(["answers.sqlite", "answers.sqlite-wal"]))
        content = bytearray(path.read_bytes())
        content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
        path.write_bytes(content)
        with contextlib.suppress(LedgerError), Ledger.open(folder) as ledger:
            found = ledger.get_many(put)
            assert all(put[name] == found[name] for name in found)


@contextlib.contextmanager
def _copy(source: Path) -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as scratch:
        yield Path(shutil.copytree(source, Path(scratch) / "ledger"))


_FILL = """
import sys
from pathlib import Path
from kar.errors import LedgerError
from kar.llm.ledger import Ledger
from tests.llm.ledger.rows import answer
from tests.llm.ledger.test_torn import fill
fill(Path(sys.argv[1]), int(sys.argv[2]))
"""


def fill(folder: Path, limit_bytes: int) -> None:
    """Put answers until a file would grow past the limit; print what came of it."""
    if limit_bytes:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, limit_bytes))
    flushed = 0
    try:
        with Ledger.open(folder) as ledger:
            for n in range(5_000):
                ledger.put(answer(f"k{n}", "x" * 900))
                if n % 50 == 49:
                    ledger.flush()
                    flushed = n + 1
    except LedgerError as error:
        print(flushed, error.what, error.do, sep="\n")


@pytest.mark.parametrize("kind", ["a file size limit", "a full disk"])
def test_a_full_disk_stops_the_run_by_name_keeps_what_was_committed_and_the_next_run_goes_on(tmp_path: Path, kind: str) -> None:
    folder, environment = tmp_path / "disk", {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    folder.mkdir()
    limit = 600_000
    with contextlib.ExitStack() as stack:
        if kind == "a full disk":
            stack.enter_context(_small_disk(folder))
            limit = 0
        done = subprocess.run(
            [sys.executable, "-c", _FILL, str(folder / "ledger"), str(limit)], capture_output=True, text=True, env=environment, timeout=60
        )
        assert (done.returncode, done.stderr) == (0, "")
        flushed, what, do = done.stdout.splitlines()
        assert ("no room to write" if kind == "a full disk" else "cannot be written") in what
        assert "space" in do or "make room" in do
        assert "every answer that was committed is kept" in do
        if kind == "a full disk":
            subprocess.run(["mount", "-o", "remount,size=16m", str(folder)], check=True)
        with Ledger.open(folder / "ledger") as ledger:
            held = ledger.held(key(f"k{n}") for n in range(5_000))
            assert int(flushed) >= 50
            assert held >= {key(f"k{n}") for n in range(int(flushed))}
            assert held == {key(f"k{n}") for n in range(len(held))}
            ledger.put(answer("after"))
            assert ledger.count() == len(held) + 1
            ledger.compact()
        assert len(rows_of(folder / "ledger")) == len(held) + 1


def test_a_compaction_that_finds_no_room_says_so_and_leaves_every_row(tmp_path: Path) -> None:
    with _small_disk(tmp_path):
        with Ledger.open(tmp_path / "ledger") as ledger:
            for n in range(300):
                ledger.put(answer(f"k{n}", os.urandom(500).hex()))
            ledger.flush()
            (tmp_path / "filler").write_bytes(b"x" * 150_000)
            with contextlib.suppress(OSError), (tmp_path / "filler").open("ab") as stream:
                while True:
                    stream.write(b"x" * 4_096)
                    stream.flush()
            os.truncate(tmp_path / "filler", (tmp_path / "filler").stat().st_size - 60_000)
            with pytest.raises(LedgerError, match="no room to write"):
                ledger.compact()
            assert ledger.count() == 300
            assert not part_paths(tmp_path / "ledger")
            (tmp_path / "filler").unlink()
            assert ledger.compact() == 300
        assert len(rows_of(tmp_path / "ledger")) == 300


@contextlib.contextmanager
def _small_disk(folder: Path) -> Iterator[None]:
    """A disk of 1 MB. Needs the right to mount one; the file size limit stands in for it elsewhere."""
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], capture_output=True, check=False).returncode:
        pytest.skip("this machine does not let the test mount a small disk")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_database_that_may_not_grow_says_so_and_keeps_its_rows(tmp_path: Path) -> None:
    connection = opened(tmp_path / "answers.sqlite")
    connection.execute("PRAGMA max_page_count = 30")
    writer = Writer(tmp_path / "answers.sqlite", connection, 0.01)
    with pytest.raises(LedgerError, match="no room to write"):
        _put_one_by_one(writer)
    with pytest.raises(LedgerError, match="no room to write"):
        writer.close()
    with Ledger.open(tmp_path) as ledger:
        kept = ledger.held(key(f"k{n}") for n in range(500))
        assert kept == {key(f"k{n}") for n in range(len(kept))}
        assert len(kept) > 10
        ledger.put(answer("after"))
        assert ledger.count() == len(kept) + 1


def _put_one_by_one(writer: Writer) -> None:
    for n in range(500):
        writer.put(answer(f"k{n}", "x" * 900), stored(answer(f"k{n}", "x" * 900)))
        writer.flush()
