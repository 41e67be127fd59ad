"""The ledger: append-only, grouped commits, survives SIGKILL, refuses what it cannot trust."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from kar.errors import AlreadyRunning, LedgerError
from kar.llm.ledger import Ledger, file_system_of, look_up
from tests.llm.ledger.rows import ROOT, answer, failed, key


def test_an_answer_comes_back_as_it_was_put_before_and_after_the_commit(tmp_path: Path) -> None:
    put = answer("k1", "Zoë “said” 🎬")
    with Ledger.open(tmp_path, window_s=30) as ledger:
        ledger.put(put)
        assert ledger.get(put.key) == put
        ledger.flush()
        assert ledger.get(put.key) == put
    with Ledger.open(tmp_path) as ledger:
        assert ledger.get(put.key) == put
        assert ledger.get(key("k2")) is None


def test_the_first_good_answer_counts_and_nothing_is_overwritten(tmp_path: Path) -> None:
    with Ledger.open(tmp_path) as ledger:
        ledger.put(failed("k", after_s=1))
        assert ledger.get(key("k")) is None
        ledger.put(answer("k", "second", after_s=3))
        ledger.put(answer("k", "first", after_s=2))
        ledger.put(failed("k", status="bad_request", detail="400", after_s=4))
        rows = ledger.find([key("k")])[key("k")]
        assert [(r.status, r.text) for r in rows] == [("exhausted", ""), ("ok", "first"), ("ok", "second"), ("bad_request", "")]
        found = ledger.get(key("k"))
        assert found is not None
        assert found.text == "first"


def test_many_keys_are_looked_up_at_once(tmp_path: Path) -> None:
    with Ledger.open(tmp_path) as ledger:
        for number in range(1_200):
            ledger.put(answer(f"k{number}", f"text {number}"))
        found = ledger.get_many([key(f"k{number}") for number in range(0, 2_400, 2)])
        assert len(found) == 600
        assert found[key("k1198")].text == "text 1198"
        assert ledger.count() == 1_200


def test_answers_reach_the_disk_within_the_window_without_a_flush(tmp_path: Path) -> None:
    with Ledger.open(tmp_path, window_s=0.05) as ledger:
        ledger.put(answer("k"))
        until = time.monotonic() + 60
        while not look_up(tmp_path, [key("k")]) and time.monotonic() < until:
            time.sleep(0.01)
        assert look_up(tmp_path, [key("k"), key("other")]) == {key("k"): answer("k")}


def test_looking_up_where_no_ledger_is_finds_nothing_and_makes_nothing(tmp_path: Path) -> None:
    assert look_up(tmp_path / "ledger", ["k"]) == {}
    assert not (tmp_path / "ledger").exists()


def test_a_second_writer_is_turned_away_and_let_in_after_the_first(tmp_path: Path) -> None:
    with Ledger.open(tmp_path), pytest.raises(AlreadyRunning, match="another process writes the ledger"):
        Ledger.open(tmp_path)
    with Ledger.open(tmp_path) as ledger:
        assert ledger.count() == 0


_WRITER = """
import sys, time
from pathlib import Path
from kar.llm.ledger import Ledger
from tests.llm.ledger.rows import answer
ledger = Ledger.open(Path(sys.argv[1]), window_s=0.1)
for number in range(10**6):
    ledger.put(answer(f"k{number}"))
    print(number, flush=True)
    time.sleep(0.001)
"""


def test_sigkill_loses_at_most_one_commit_window(tmp_path: Path) -> None:
    program = [sys.executable, "-c", _WRITER, str(tmp_path)]
    with subprocess.Popen(program, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)}) as process:
        assert process.stdout is not None
        put_at = []
        for _ in process.stdout:
            put_at.append(time.monotonic())
            if len(put_at) == 400:
                process.send_signal(signal.SIGKILL)
                break
        put_at += [time.monotonic() for _ in process.stdout]
    with Ledger.open(tmp_path) as ledger:
        kept = ledger.held(key(f"k{n}") for n in range(len(put_at)))
    lost = len(put_at) - len(kept)
    in_window = sum(at > put_at[-1] - 0.5 for at in put_at)  # one window of 0.1 s, with room for a busy machine
    assert len(kept) > 0
    assert lost <= in_window
    assert kept == {key(f"k{n}") for n in range(len(kept))}  # a prefix: no hole


def test_a_torn_last_write_keeps_what_was_committed_before_it(tmp_path: Path) -> None:
    ledger = Ledger.open(tmp_path)
    ledger.put(answer("k1"))
    ledger.flush()
    ledger.put(answer("k2"))
    ledger.flush()
    copy = tmp_path / "copy"
    copy.mkdir()
    for name in ("answers.sqlite", "answers.sqlite-wal"):
        (copy / name).write_bytes((tmp_path / name).read_bytes())
    ledger.close()
    wal = copy / "answers.sqlite-wal"
    wal.write_bytes(wal.read_bytes()[:-1_000])
    with Ledger.open(copy) as torn:
        assert torn.get(key("k1")) == answer("k1")
        assert torn.get(key("k2")) is None


@pytest.mark.parametrize("harm", ["garbage", "cut", "page"])
def test_a_damaged_file_is_a_named_error(tmp_path: Path, harm: str) -> None:
    with Ledger.open(tmp_path) as ledger:
        for number in range(300):
            ledger.put(answer(f"k{number}", "x" * 500))
    path = tmp_path / "answers.sqlite"
    data = bytearray(path.read_bytes())
    if harm == "garbage":
        data = bytearray(b"this is no database at all" * 200)
    elif harm == "cut":
        data = data[: len(data) // 2]
    else:
        data[8_192:12_288] = b"\xff" * 4_096
    path.write_bytes(data)
    with pytest.raises(LedgerError, match="damaged") as caught:
        Ledger.open(tmp_path)
    assert "kar ledger export" in caught.value.do


def test_a_write_that_fails_is_told_to_the_next_caller(tmp_path: Path) -> None:
    ledger = Ledger.open(tmp_path)
    with sqlite3.connect(tmp_path / "answers.sqlite") as connection:
        connection.execute("DROP TABLE answer")
    connection.close()
    ledger.put(answer("k"))
    with pytest.raises(LedgerError, match="cannot be written"):
        ledger.flush()
    with pytest.raises(LedgerError):
        ledger.put(answer("k2"))
    with pytest.raises(LedgerError):
        ledger.close()


@pytest.mark.parametrize(
    ("kind", "is_network"), [("nfs4", True), ("cifs", True), ("fuse.sshfs", True), ("ext4", False), ("overlay", False)]
)
def test_network_file_systems_are_refused_by_name(tmp_path: Path, kind: str, is_network: bool) -> None:
    mounts = tmp_path / "mounts"
    folder = tmp_path / "the home" / "ledger"
    point = str(tmp_path / "the home").replace(" ", r"\040")
    mounts.write_text(f"/dev/vda / ext4 rw 0 0\nserver:/x {point} {kind} rw 0 0\nproc /proc proc rw 0 0\n")
    if is_network:
        with pytest.raises(LedgerError, match=kind) as caught:
            Ledger.open(folder, mounts=mounts)
        assert "local disk" in caught.value.do
    else:
        Ledger.open(folder, mounts=mounts).close()
    assert file_system_of(tmp_path, mounts) == "ext4"
